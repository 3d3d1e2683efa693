#include "addon/js_values.h"

#include <cmath>

namespace loramux::addon {
namespace {

const char* ArrayTypeName(napi_typedarray_type type) {
  switch (type) {
    case napi_int32_array:
      return "an Int32Array";
    case napi_uint32_array:
      return "a Uint32Array";
    case napi_float32_array:
      return "a Float32Array";
    default:
      return "a Uint8Array";
  }
}

double ToNumber(const Napi::Value& value, const char* field) {
  if (!value.IsNumber()) FailType(field, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(number)) FailType(field, "a finite number");
  return number;
}

int64_t ToInteger(const Napi::Value& value, const char* field, int64_t low, int64_t high) {
  const double number = ToNumber(value, field);
  if (number != std::floor(number)) FailType(field, "an integer");
  if (number < static_cast<double>(low) || number > static_cast<double>(high)) {
    throw NativeError(ErrorCode::kInvalidArgument, std::string(field) + " must be " +
                                                       std::to_string(low) + " to " +
                                                       std::to_string(high));
  }
  return static_cast<int64_t>(number);
}

}  // namespace

void FailType(const std::string& field, const char* expected) {
  throw NativeError(ErrorCode::kInvalidArgument, field + " must be " + expected);
}

Napi::Object RequireObject(const Napi::Value& value, const char* field) {
  if (!value.IsObject()) FailType(field, "an object");
  return value.As<Napi::Object>();
}

Napi::Object GetObject(const Napi::Object& object, const char* key) {
  return RequireObject(object.Get(key), key);
}

std::string GetString(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsString()) FailType(key, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) FailType(key, "a string without NUL characters");
  return text;
}

double GetNumber(const Napi::Object& object, const char* key) {
  return ToNumber(object.Get(key), key);
}

int64_t GetInteger(const Napi::Object& object, const char* key, int64_t low, int64_t high) {
  return ToInteger(object.Get(key), key, low, high);
}

int32_t ToInt32(const Napi::Value& value, const char* field) {
  return static_cast<int32_t>(ToInteger(value, field, INT32_MIN, INT32_MAX));
}

int32_t GetInt32(const Napi::Object& object, const char* key) {
  return ToInt32(object.Get(key), key);
}

bool GetFlag(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (value.IsUndefined()) return false;
  if (!value.IsBoolean()) FailType(key, "true or false");
  return value.As<Napi::Boolean>().Value();
}

void ReadArray(const Napi::Value& value, const char* field, napi_typedarray_type type,
               const void** data, size_t* length) {
  napi_typedarray_type actual = napi_int8_array;
  void* address = nullptr;
  bool is_array = false;
  if (napi_is_typedarray(value.Env(), value, &is_array) != napi_ok || !is_array ||
      napi_get_typedarray_info(value.Env(), value, &actual, length, &address, nullptr, nullptr) !=
          napi_ok ||
      actual != type) {
    FailType(field, ArrayTypeName(type));
  }
  if (address == nullptr) *length = 0;
  *data = address;
}

}  // namespace loramux::addon
