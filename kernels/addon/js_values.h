// Reads values out of JavaScript objects, strictly: a missing property or a wrong type is a
// NativeError that names it.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "session/error.h"
#include "session/step_input.h"

namespace loramux::addon {

[[noreturn]] void FailType(const std::string& field, const char* expected);

Napi::Object RequireObject(const Napi::Value& value, const char* field);
Napi::Object GetObject(const Napi::Object& object, const char* key);
std::string GetString(const Napi::Object& object, const char* key);
// A finite number.
double GetNumber(const Napi::Object& object, const char* key);
// An integer that a double represents exactly, within [low, high].
int64_t GetInteger(const Napi::Object& object, const char* key, int64_t low, int64_t high);
// Any int32; ranges are the session's business.
int32_t ToInt32(const Napi::Value& value, const char* field);
int32_t GetInt32(const Napi::Object& object, const char* key);
// A boolean that may be missing: false then.
bool GetFlag(const Napi::Object& object, const char* key);

template <typename T>
constexpr napi_typedarray_type kArrayType = napi_int8_array;
template <>
inline constexpr napi_typedarray_type kArrayType<int32_t> = napi_int32_array;
template <>
inline constexpr napi_typedarray_type kArrayType<uint32_t> = napi_uint32_array;
template <>
inline constexpr napi_typedarray_type kArrayType<float> = napi_float32_array;
template <>
inline constexpr napi_typedarray_type kArrayType<uint8_t> = napi_uint8_array;

// Data and element count of a typed array of exactly this type; borrowed, valid until JavaScript
// runs again. A detached array has length 0. `field` names it in errors.
void ReadArray(const Napi::Value& value, const char* field, napi_typedarray_type type,
               const void** data, size_t* length);

template <typename T>
ArrayView<T> ToArray(const Napi::Value& value, const char* field) {
  const void* data = nullptr;
  ArrayView<T> view;
  ReadArray(value, field, kArrayType<T>, &data, &view.length);
  view.data = static_cast<const T*>(data);
  return view;
}

template <typename T>
ArrayView<T> GetArray(const Napi::Object& object, const char* key) {
  return ToArray<T>(object.Get(key), key);
}

}  // namespace loramux::addon
