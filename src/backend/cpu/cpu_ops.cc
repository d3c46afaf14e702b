// Construction of the CPU backend. Parallel work is split by base/threads.h alone, so OpenBLAS is kept
// to the calling thread: its own split would depend on the number of threads.
#include "backend/cpu/cpu_ops.h"

#include <cblas.h>

namespace sluice {

CpuOps::CpuOps() {
  openblas_set_num_threads(1);
}

}  // namespace sluice
