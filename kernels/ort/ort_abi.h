// The part of ONNX Runtime's C ABI that this project uses, declared here so that no header of the
// library has to be shipped. The library hands out one table of function pointers that only ever
// grows at its end, so a function is named by its position and its type.
//
// Positions and struct layout: onnxruntime_c_api.h of ONNX Runtime, API versions 1 to 22.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace loramux::ort {

// The oldest API version that has every function below (SetLoadCancellation came with 22).
inline constexpr uint32_t kApiVersion = 22;

// Opaque to us; only pointers travel.
struct OrtApi;
struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtTensorShapeInfo;  // OrtTensorTypeAndShapeInfo
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Values of the enumerations that we use.
enum StatusCode : int32_t { kOrtFail = 1, kOrtInvalidArgument = 2 };
enum LoggingLevel : int32_t { kLogError = 3, kLogFatal = 4 };
enum ExecutionMode : int32_t { kSequential = 0 };
enum GraphOptimizationLevel : int32_t { kOptimizeNone = 0, kOptimizeAll = 99 };
enum AllocatorType : int32_t { kDeviceAllocator = 0, kArenaAllocator = 1 };
enum MemType : int32_t { kMemTypeDefault = 0 };
enum ElementType : int32_t {
  kElementUndefined = 0,
  kElementFloat = 1,
  kElementUint8 = 2,
  kElementInt32 = 6,
  kElementFloat16 = 10,
  kElementBfloat16 = 16,
};
enum Characteristic : int32_t { kRequired = 0, kOptional = 1 };

// An operator implemented outside the library. The library reads `version` to know which of the
// later fields exist. Layout of x86-64 and arm64 Linux.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);  // null result: CPU
  ElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  MemType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShape)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(std::is_standard_layout_v<OrtCustomOp>);
static_assert(offsetof(OrtCustomOp, CreateKernel) == 8);
static_assert(offsetof(OrtCustomOp, GetName) == 16);
static_assert(offsetof(OrtCustomOp, GetExecutionProviderType) == 24);
static_assert(offsetof(OrtCustomOp, GetInputType) == 32);
static_assert(offsetof(OrtCustomOp, GetInputTypeCount) == 40);
static_assert(offsetof(OrtCustomOp, GetOutputType) == 48);
static_assert(offsetof(OrtCustomOp, GetOutputTypeCount) == 56);
static_assert(offsetof(OrtCustomOp, KernelCompute) == 64);
static_assert(offsetof(OrtCustomOp, KernelDestroy) == 72);
static_assert(offsetof(OrtCustomOp, GetInputCharacteristic) == 80);
static_assert(offsetof(OrtCustomOp, GetOutputCharacteristic) == 88);
static_assert(offsetof(OrtCustomOp, GetInputMemoryType) == 96);
static_assert(offsetof(OrtCustomOp, GetVariadicInputMinArity) == 104);
static_assert(offsetof(OrtCustomOp, GetVariadicInputHomogeneity) == 112);
static_assert(offsetof(OrtCustomOp, GetVariadicOutputMinArity) == 120);
static_assert(offsetof(OrtCustomOp, GetVariadicOutputHomogeneity) == 128);
static_assert(offsetof(OrtCustomOp, CreateKernelV2) == 136);
static_assert(offsetof(OrtCustomOp, KernelComputeV2) == 144);
static_assert(offsetof(OrtCustomOp, InferOutputShape) == 152);
static_assert(offsetof(OrtCustomOp, GetStartVersion) == 160);
static_assert(offsetof(OrtCustomOp, GetEndVersion) == 168);
static_assert(offsetof(OrtCustomOp, GetMayInplace) == 176);
static_assert(offsetof(OrtCustomOp, ReleaseMayInplace) == 184);
static_assert(offsetof(OrtCustomOp, GetAliasMap) == 192);
static_assert(offsetof(OrtCustomOp, ReleaseAliasMap) == 200);
static_assert(sizeof(OrtCustomOp) == 208);

// A function of the table: its position and type.
template <size_t kIndex, typename Signature>
struct Function;
template <size_t kIndex, typename R, typename... Args>
struct Function<kIndex, R(Args...)> {
  static R Call(const OrtApi* api, Args... args) {
    const auto* table = reinterpret_cast<void* const*>(api);
    return reinterpret_cast<R (*)(Args...)>(table[kIndex])(args...);
  }
};

// S: functions that answer a status, null when all went well.
template <size_t kIndex, typename... Args>
using S = Function<kIndex, OrtStatus*(Args...)>;

using CreateStatus = Function<0, OrtStatus*(StatusCode, const char*)>;
using GetErrorCode = Function<1, StatusCode(const OrtStatus*)>;
using GetErrorMessage = Function<2, const char*(const OrtStatus*)>;
using ReleaseStatus = Function<93, void(OrtStatus*)>;
using GetBuildInfoString = Function<254, const char*()>;

using CreateEnv = S<3, LoggingLevel, const char*, OrtEnv**>;
using ReleaseEnv = Function<92, void(OrtEnv*)>;

using CreateSessionFromArray =
    S<8, const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**>;
using Run = S<9, OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*,
              size_t, const char* const*, size_t, OrtValue**>;
using ReleaseSession = Function<95, void(OrtSession*)>;
using SessionGetInputCount = S<30, const OrtSession*, size_t*>;
using SessionGetOutputCount = S<31, const OrtSession*, size_t*>;
using SessionGetInputName = S<36, const OrtSession*, size_t, OrtAllocator*, char**>;
using SessionGetOutputName = S<37, const OrtSession*, size_t, OrtAllocator*, char**>;
using AllocatorFree = S<76, OrtAllocator*, void*>;
using GetAllocatorWithDefaultOptions = S<78, OrtAllocator**>;

using CreateSessionOptions = S<10, OrtSessionOptions**>;
using SetExecutionMode = S<13, OrtSessionOptions*, ExecutionMode>;
using DisableMemPattern = S<17, OrtSessionOptions*>;
using SetLogSeverity = S<22, OrtSessionOptions*, int>;
using SetGraphOptimizationLevel = S<23, OrtSessionOptions*, GraphOptimizationLevel>;
using SetIntraOpNumThreads = S<24, OrtSessionOptions*, int>;
using SetInterOpNumThreads = S<25, OrtSessionOptions*, int>;
using AddSessionConfigEntry = S<130, OrtSessionOptions*, const char*, const char*>;
using SetLoadCancellation = S<293, OrtSessionOptions*, bool>;
using ReleaseSessionOptions = Function<100, void(OrtSessionOptions*)>;

using CreateRunOptions = S<39, OrtRunOptions**>;
using RunOptionsSetTerminate = S<46, OrtRunOptions*>;
using RunOptionsSetLogSeverity = S<41, OrtRunOptions*, int>;
using ReleaseRunOptions = Function<97, void(OrtRunOptions*)>;

using CreateCpuMemoryInfo = S<69, AllocatorType, MemType, OrtMemoryInfo**>;
using ReleaseMemoryInfo = Function<94, void(OrtMemoryInfo*)>;
using CreateTensorWithData =
    S<49, const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t, ElementType, OrtValue**>;
using GetTensorData = S<51, OrtValue*, void**>;
using GetElementType = S<60, const OrtTensorShapeInfo*, ElementType*>;
using GetDimensionsCount = S<61, const OrtTensorShapeInfo*, size_t*>;
using GetDimensions = S<62, const OrtTensorShapeInfo*, int64_t*, size_t>;
using GetTensorShapeInfo = S<65, const OrtValue*, OrtTensorShapeInfo**>;
using ReleaseTensorShapeInfo = Function<99, void(OrtTensorShapeInfo*)>;
using ReleaseValue = Function<96, void(OrtValue*)>;

using CreateCustomOpDomain = S<26, const char*, OrtCustomOpDomain**>;
using CustomOpDomainAdd = S<27, OrtCustomOpDomain*, const OrtCustomOp*>;
using AddCustomOpDomain = S<28, OrtSessionOptions*, OrtCustomOpDomain*>;
using ReleaseCustomOpDomain = Function<101, void(OrtCustomOpDomain*)>;
using GetAttributeFloat = S<85, const OrtKernelInfo*, const char*, float*>;
using GetAttributeInt = S<86, const OrtKernelInfo*, const char*, int64_t*>;
using GetConstantInput = S<249, const OrtKernelInfo*, size_t, int*, const OrtValue**>;
using KernelGetInputCount = S<88, const OrtKernelContext*, size_t*>;
using KernelGetInput = S<90, const OrtKernelContext*, size_t, const OrtValue**>;
using KernelGetOutput = S<91, OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**>;
using KernelParallelFor =
    S<274, const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*>;
using ShapeInferGetInput = S<268, const OrtShapeInferContext*, size_t, OrtTensorShapeInfo**>;
using ShapeInferSetOutput =
    S<270, const OrtShapeInferContext*, size_t, const OrtTensorShapeInfo*>;

}  // namespace loramux::ort
