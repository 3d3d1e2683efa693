# Toolchain: builds for arm64 Linux on another Linux and runs what is built under qemu.
#   cmake -S kernels -B build/arm64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake \
#     -DLORAMUX_BUILD_TESTS=ON
# Debian: apt-get install -y g++-aarch64-linux-gnu qemu-user-static
#   LORAMUX_EMULATED_CPU   processor that qemu plays; `max` has all that it knows
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

find_program(_aarch64_compiler NAMES aarch64-linux-gnu-g++ aarch64-linux-gnu-g++-14
  aarch64-linux-gnu-g++-13 aarch64-linux-gnu-g++-12 REQUIRED)
set(CMAKE_CXX_COMPILER ${_aarch64_compiler})
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

set(LORAMUX_EMULATED_CPU max CACHE STRING "Processor of qemu-aarch64")
find_program(_qemu NAMES qemu-aarch64-static qemu-aarch64)
if(_qemu)
  set(CMAKE_CROSSCOMPILING_EMULATOR
    ${_qemu} -L /usr/aarch64-linux-gnu -cpu ${LORAMUX_EMULATED_CPU})
endif()
