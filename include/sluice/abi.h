// What libsluice exports, and the version of its binary interface. For C11 and C++20.
#pragma once

// Grows when programs built with older headers no longer run with the library. It is part of the file name
// of the shared library and, as sluice::v1, of every C++ symbol.
#define SLUICE_ABI_VERSION 1

#define SLUICE_API __attribute__((visibility("default")))
