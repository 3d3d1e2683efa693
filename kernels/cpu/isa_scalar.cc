// Portable kernels: what every processor can run.
#include "cpu/isa_table_impl.h"
