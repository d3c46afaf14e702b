#include "api/translate.h"

namespace sluice::v1 {

void RethrowTranslated() {
  try {
    throw;
  } catch (const internal::CoreInputError& error) {
    throw Error(ErrorKind::kInput, error.what());
  } catch (const internal::CoreSystemError& error) {
    throw Error(ErrorKind::kSystem, error.what());
  } catch (const internal::CoreError& error) {
    throw Error(ErrorKind::kBug, error.what());
  }
}

}  // namespace sluice::v1
