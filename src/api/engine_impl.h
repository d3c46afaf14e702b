// What stands behind the public Engine.
#pragma once

#include "api/internal.h"

namespace sluice::v1 {

struct Engine::Impl {
  internal::CoreEngine engine;
};

}  // namespace sluice::v1
