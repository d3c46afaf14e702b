# Compiler settings shared by every target: C++20, warnings as errors, ccache where it is installed.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# libsluice is linked from the same objects as the program: they can go into a shared library, and hide
# what is not marked as public. The compiler may then inline and call as in a program.
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

set(SLUICE_SANITIZE "" CACHE STRING "Sanitizers to build with, for example address,undefined or thread")

add_library(sluice_compile_options INTERFACE)
# -Wno-restrict: GCC 12 warns falsely about std::string operator+ (its bug 105329).
# -ffp-contract=off: a fused multiply-add is written where it is meant, so that every build of a
# kernel rounds alike.
target_compile_options(sluice_compile_options INTERFACE
  -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Wno-restrict -Werror -ffp-contract=off)
target_include_directories(sluice_compile_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(SLUICE_SANITIZE)
  target_compile_options(sluice_compile_options INTERFACE
    -fsanitize=${SLUICE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(sluice_compile_options INTERFACE -fsanitize=${SLUICE_SANITIZE})
endif()
