#!/bin/sh
# Usage: check_isa_symbols.sh NM OBJECT...
# An object compiled for an instruction set may define only symbols of its own namespace. Anything
# else (a function of the standard library, say) could be the copy that the linker keeps for code that
# must run on processors without that instruction set.
nm=$1
shift
status=0
for object in "$@"; do
  case $object in
    *isa_*) own='isa_(scalar|avx2|avx512|amx|neon)' ;;
    *lora_amx*) own='lora::amx::' ;;
    *packed_linear* | *packed_shape*) continue ;;
    *packed_neon*) own='packed::(neon|neon_dotprod)::' ;;
    *packed_*) own='packed::(scalar|avx2|avx_vnni|avx512|avx512_vnni|avx512_bf16|amx)::' ;;
    *) continue ;;
  esac
  stray=$("$nm" -C --defined-only "$object" | grep -E ' [TWVuD] ' | grep -vE "$own" |
    grep -vE 'asan|ubsan|odr')
  if [ -n "$stray" ]; then
    echo "$object defines symbols outside its namespace:"
    echo "$stray"
    status=1
  fi
done
exit $status
