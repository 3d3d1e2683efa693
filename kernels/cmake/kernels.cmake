# Compute kernels: a static library without ONNX Runtime or N-API, and its tests and benchmark.
#   target loramux_kernels           static, position independent; include <loramux/...>
#   LORAMUX_BUILD_TESTS=ON           adds loramux_kernel_tests, loramux_kernel_bench, CTest entries
#   LORAMUX_SANITIZE=ON              AddressSanitizer and UndefinedBehaviorSanitizer for them
option(LORAMUX_BUILD_TESTS "Build the kernel tests and benchmark" OFF)
option(LORAMUX_SANITIZE "Build kernels with ASan and UBSan" OFF)

set(_kernels ${CMAKE_CURRENT_LIST_DIR}/..)
get_filename_component(_kernels ${_kernels} ABSOLUTE)

add_library(loramux_kernels STATIC
  ${_kernels}/cpu/attention/attention_plan.cc
  ${_kernels}/cpu/attention/paged_attention.cc
  ${_kernels}/cpu/cpu_features.cc
  ${_kernels}/cpu/dispatch.cc
  ${_kernels}/cpu/isa_scalar.cc
  ${_kernels}/cpu/lora/lora_weights.cc
  ${_kernels}/cpu/lora/segmented_lora.cc
  ${_kernels}/cpu/packed/checkpoint_levels.cc
  ${_kernels}/cpu/packed/dispatch.cc
  ${_kernels}/cpu/packed/pack.cc
  ${_kernels}/cpu/packed/packed_linear.cc
  ${_kernels}/cpu/packed/packed_scalar.cc
  ${_kernels}/cpu/packed/packed_shape.cc
  ${_kernels}/cpu/rope.cc
  ${_kernels}/cpu/sampler.cc
  ${_kernels}/reference/packed_linear.cc
  ${_kernels}/reference/paged_attention.cc
  ${_kernels}/reference/sampler.cc
  ${_kernels}/reference/segmented_lora.cc)
target_include_directories(loramux_kernels PUBLIC ${_kernels}/include PRIVATE ${_kernels})
target_compile_features(loramux_kernels PUBLIC cxx_std_20)
set_target_properties(loramux_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS ON)

# No contraction: the compiler must not fuse a multiplication and an addition in one register tile
# and leave them apart in another, or a row's bits would depend on its neighbours.
set(_kernel_flags -Wall -Wextra -Wno-psabi -fno-exceptions -ffp-contract=off -fno-math-errno)
set(_kernel_optimize $<$<NOT:$<CONFIG:Debug>>:-O3>)
target_compile_options(loramux_kernels PRIVATE
  -Wall -Wextra -Wno-psabi -ffp-contract=off ${_kernel_optimize})
set_source_files_properties(
  ${_kernels}/cpu/isa_scalar.cc ${_kernels}/cpu/packed/packed_scalar.cc PROPERTIES
  COMPILE_OPTIONS "${_kernel_flags}")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  target_sources(loramux_kernels PRIVATE
    ${_kernels}/cpu/isa_avx2.cc ${_kernels}/cpu/isa_avx512.cc)
  set(_avx2 -mavx2 -mfma -mf16c)
  set_source_files_properties(${_kernels}/cpu/isa_avx2.cc PROPERTIES
    COMPILE_OPTIONS "${_kernel_flags};${_avx2}")
  set(_avx512 ${_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC's own AVX-512 intrinsics pass undefined vectors around and warn about it (GCC bug 105593).
    list(APPEND _avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
  set_source_files_properties(${_kernels}/cpu/isa_avx512.cc PROPERTIES
    COMPILE_OPTIONS "${_kernel_flags};${_avx512}")
  # A file per set for packed linear layers: cpu/packed/packed_SET.cc.
  foreach(_set_and_flags
      "avx2" "avx_vnni;-mavxvnni" "avx512" "avx512_vnni;-mavx512vnni"
      "avx512_bf16;-mavx512vnni;-mavx512bf16")
    list(POP_FRONT _set_and_flags _set)
    set(_base ${_avx2})
    if(_set MATCHES "^avx512")
      set(_base ${_avx512})
    endif()
    target_sources(loramux_kernels PRIVATE ${_kernels}/cpu/packed/packed_${_set}.cc)
    set_source_files_properties(${_kernels}/cpu/packed/packed_${_set}.cc PROPERTIES
      COMPILE_OPTIONS "${_kernel_flags};${_base};${_set_and_flags}")
  endforeach()
  set(_amx ${_avx512} -mavx512vnni -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16)
  set(_amx_sources
    ${_kernels}/cpu/attention/isa_attention_amx.cc
    ${_kernels}/cpu/lora/lora_amx.cc
    ${_kernels}/cpu/lora/lora_i8_amx.cc
    ${_kernels}/cpu/packed/packed_amx.cc)
  target_sources(loramux_kernels PRIVATE ${_amx_sources})
  set_source_files_properties(${_amx_sources} PROPERTIES COMPILE_OPTIONS "${_kernel_flags};${_amx}")
  target_compile_definitions(loramux_kernels PRIVATE LORAMUX_HAVE_X86_ISAS)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  target_sources(loramux_kernels PRIVATE
    ${_kernels}/cpu/isa_neon.cc
    ${_kernels}/cpu/packed/packed_neon.cc
    ${_kernels}/cpu/packed/packed_neon_dotprod.cc)
  set_source_files_properties(
    ${_kernels}/cpu/isa_neon.cc ${_kernels}/cpu/packed/packed_neon.cc PROPERTIES
    COMPILE_OPTIONS "${_kernel_flags}")
  set_source_files_properties(${_kernels}/cpu/packed/packed_neon_dotprod.cc PROPERTIES
    COMPILE_OPTIONS "${_kernel_flags};-march=armv8.2-a+dotprod")
  target_compile_definitions(loramux_kernels PRIVATE LORAMUX_HAVE_ARM64_ISAS)
endif()

if(LORAMUX_SANITIZE)
  target_compile_options(loramux_kernels PUBLIC
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(loramux_kernels PUBLIC -fsanitize=address,undefined)
endif()

if(LORAMUX_BUILD_TESTS)
  find_package(Threads REQUIRED)
  add_library(loramux_kernel_test_support STATIC
    ${_kernels}/session/error.cc
    ${_kernels}/session/step_pool.cc
    ${_kernels}/session/threads.cc
    ${_kernels}/test/adapter_mix.cc
    ${_kernels}/test/packed_case.cc
    ${_kernels}/test/paged_case.cc
    ${_kernels}/test/support.cc)
  target_include_directories(loramux_kernel_test_support PUBLIC ${_kernels})
  target_link_libraries(loramux_kernel_test_support PUBLIC loramux_kernels Threads::Threads)

  add_executable(loramux_kernel_tests
    ${_kernels}/test/allocation_test.cc
    ${_kernels}/test/allocations.cc
    ${_kernels}/test/check.cc
    ${_kernels}/test/convert_test.cc
    ${_kernels}/test/lora_weights_test.cc
    ${_kernels}/test/packed_linear_test.cc
    ${_kernels}/test/packed_pack_test.cc
    ${_kernels}/test/packed_rotation_test.cc
    ${_kernels}/test/packed_tables_test.cc
    ${_kernels}/test/paged_attention_test.cc
    ${_kernels}/test/paged_cache_test.cc
    ${_kernels}/test/sampler_test.cc
    ${_kernels}/test/segmented_lora_test.cc
    ${_kernels}/test/step_pool_test.cc)
  target_link_libraries(loramux_kernel_tests PRIVATE loramux_kernel_test_support)
  target_compile_options(loramux_kernel_tests PRIVATE -Wall -Wextra)

  add_executable(loramux_kernel_bench ${_kernels}/bench/bench.cc)
  target_link_libraries(loramux_kernel_bench PRIVATE loramux_kernel_test_support)
  target_compile_options(loramux_kernel_bench PRIVATE -Wall -Wextra)

  add_executable(loramux_lora_bench
    ${_kernels}/bench/lora_bench.cc ${_kernels}/session/memory.cc)
  target_link_libraries(loramux_lora_bench PRIVATE loramux_kernel_test_support)
  target_compile_options(loramux_lora_bench PRIVATE -Wall -Wextra)

  add_executable(loramux_ceiling
    ${_kernels}/bench/ceiling.cc ${_kernels}/bench/ceiling_loops.cc)
  target_include_directories(loramux_ceiling PRIVATE ${_kernels})
  target_link_libraries(loramux_ceiling PRIVATE loramux_kernels Threads::Threads)
  target_compile_options(loramux_ceiling PRIVATE -Wall -Wextra -O2)

  add_executable(loramux_attention_bench
    ${_kernels}/bench/attention_bench.cc ${_kernels}/bench/ceiling_loops.cc)
  target_link_libraries(loramux_attention_bench PRIVATE loramux_kernel_test_support)
  target_compile_options(loramux_attention_bench PRIVATE -Wall -Wextra -O2)

  add_executable(loramux_packed_bench
    ${_kernels}/bench/ort_matmul.cc ${_kernels}/bench/packed_bench.cc
    ${_kernels}/ort/ort_library.cc)
  target_link_libraries(loramux_packed_bench PRIVATE
    loramux_kernel_test_support ${CMAKE_DL_LIBS})
  target_compile_options(loramux_packed_bench PRIVATE -Wall -Wextra ${_kernel_optimize})

  enable_testing()
  add_test(NAME kernels COMMAND loramux_kernel_tests)
  add_test(NAME kernel_isa_symbols
    COMMAND ${_kernels}/test/check_isa_symbols.sh ${CMAKE_NM} $<TARGET_OBJECTS:loramux_kernels>
    COMMAND_EXPAND_LISTS)
endif()
