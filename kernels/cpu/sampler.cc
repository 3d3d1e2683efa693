#include "loramux/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernel_table.h"
#include "cpu/philox.h"

namespace loramux {

constexpr float kLowestTemperature = 1e-5f;  // below: greedy, as 1/T would blow up rounding
constexpr int32_t kLargestHeap = 1024;       // top_k up to this is a heap, above a histogram
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t id;
};

struct SamplerScratch {
  std::vector<float> logits;      // [vocab] after bias and penalties
  std::vector<int32_t> marks;     // [vocab] all zero between calls
  std::vector<uint16_t> bucket;   // [RoundUp(vocab)]
  std::vector<Candidate> sorted;  // up to [vocab]
  std::vector<float> values;      // up to [vocab]: logits of `sorted`
  std::vector<double> weights;    // up to [vocab]: weights of `sorted`
  std::vector<int32_t> ids;       // up to [vocab]: ids of `sorted`
  std::vector<double> lanes;      // [kSampleBuckets + 1, kSampleLanes]
  std::vector<double> upper;      // [kSampleBuckets]: weight at the upper end of each bucket
  std::vector<double> mass;       // [kSampleBuckets]
  std::vector<int32_t> tokens;    // [kSampleBuckets + 1]

  void Reserve(int32_t vocab) {
    const size_t n = static_cast<size_t>(vocab);
    if (logits.size() >= n) return;
    logits.resize(n);
    marks.resize(n, 0);
    bucket.resize(RoundUp(n));
    sorted.reserve(n);
    values.resize(n);
    weights.resize(n);
    ids.resize(n);
    lanes.resize((kSampleBuckets + 1) * kSampleLanes);
    upper.resize(kSampleBuckets);
    for (int32_t b = 0; b < kSampleBuckets; ++b) {
      upper[static_cast<size_t>(b)] = std::exp(b / -kSampleBucketsPerUnit);
    }
    mass.resize(kSampleBuckets);
    tokens.resize(kSampleBuckets + 1);
  }
  static size_t RoundUp(size_t n) {
    return (n + kSampleLanes - 1) / kSampleLanes * kSampleLanes;
  }
};

namespace {

// Descending by logit, ties by lower id: the order tokens are ranked and drawn in.
bool Precedes(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

bool ChangesLogits(const SamplerRow& row) {
  return row.num_bias > 0 || row.allowed != nullptr ||
         (row.history_length > 0 &&
          (row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f ||
           row.frequency_penalty != 0.0f));
}

// Bans what the mask does not allow. Most words of a mask are all ones or all zeros.
void ApplyMask(const uint32_t* allowed, int32_t vocab, float* logits) {
  for (int32_t first = 0; first < vocab; first += 32) {
    const uint32_t word = allowed[first / 32];
    if (word == ~uint32_t{0}) continue;
    const int32_t count = std::min(32, vocab - first);
    for (int32_t i = 0; i < count; ++i) {
      if ((word >> i & 1) == 0) logits[first + i] = kMinusInfinity;
    }
  }
}

// Bias, then repetition penalty once per distinct token of prompt and output, then frequency and
// presence penalties of output tokens, then the mask. marks[id]: bit 0 seen, the rest counts
// outputs.
void ApplyPenalties(const SamplerRow& row, int32_t vocab, SamplerScratch* s) {
  float* logits = s->logits.data();
  std::copy(row.logits, row.logits + vocab, logits);
  const auto valid = [vocab](int32_t id) { return id >= 0 && id < vocab; };
  for (int32_t i = 0; i < row.num_bias; ++i) {
    if (valid(row.bias_ids[i])) logits[row.bias_ids[i]] += row.bias_values[i];
  }
  for (int32_t i = 0; i < row.history_length; ++i) {
    const int32_t id = row.history[i];
    if (!valid(id)) continue;
    int32_t& mark = s->marks[static_cast<size_t>(id)];
    if ((mark & 1) == 0 && row.repetition_penalty != 1.0f) {
      const float v = logits[id];
      logits[id] = v > 0.0f ? v / row.repetition_penalty : v * row.repetition_penalty;
    }
    mark |= 1;
    if (i >= row.history_prompt_length) mark += 2;
  }
  for (int32_t i = 0; i < row.history_length; ++i) {
    const int32_t id = row.history[i];
    if (!valid(id)) continue;
    int32_t& mark = s->marks[static_cast<size_t>(id)];
    const int32_t count = mark >> 1;
    if (count > 0) {
      logits[id] -= row.frequency_penalty * static_cast<float>(count);
      logits[id] -= row.presence_penalty;
    }
    mark = 0;
  }
  if (row.allowed != nullptr) ApplyMask(row.allowed, vocab, logits);
}

// The k best tokens of logits in s->sorted, in order; fewer when the rest is -infinity.
void SelectTop(const float* logits, int32_t vocab, int32_t k, const KernelTable& kernels,
               std::vector<Candidate>* sorted) {
  sorted->clear();
  if (k <= 0) return;
  float threshold = kMinusInfinity;
  // Ids ascend, so a later token never displaces an equal one.
  for (int64_t i = kernels.find_greater(logits, 0, vocab, threshold); i < vocab;
       i = kernels.find_greater(logits, i + 1, vocab, threshold)) {
    if (static_cast<int32_t>(sorted->size()) == k) {
      std::pop_heap(sorted->begin(), sorted->end(), Precedes);
      sorted->pop_back();
    }
    sorted->push_back({logits[i], static_cast<int32_t>(i)});
    std::push_heap(sorted->begin(), sorted->end(), Precedes);
    if (static_cast<int32_t>(sorted->size()) == k) threshold = sorted->front().logit;
  }
  std::sort_heap(sorted->begin(), sorted->end(), Precedes);
}

void ComputeWeights(float max, double inverse_temperature, const KernelTable& kernels,
                    SamplerScratch* s) {
  const size_t n = s->sorted.size();
  for (size_t i = 0; i < n; ++i) s->values[i] = s->sorted[i].logit;
  kernels.weights(s->values.data(), static_cast<int64_t>(n), max, inverse_temperature,
                  s->weights.data());
}

struct DrawParameters {
  float max = 0.0f;
  double inverse_temperature = 1.0;
  double lowest_scaled = -DBL_MAX;  // min-p cut on (logit - max) / temperature
  int32_t top_k = 0;                // 0: off
  double top_p = 1.0;               // 1: off
  double uniform = 0.0;
};

// Tokens kept by top-p: the smallest prefix with at least p of the mass, at least one token.
size_t TopPPrefix(const double* weights, size_t count, double before, double wanted) {
  double sum = before;
  for (size_t i = 0; i < count; ++i) {
    sum += weights[i];
    if (sum >= wanted) return i + 1;
  }
  return count;
}

// Everything is in s->sorted already, best first (small top-k).
int32_t DrawFromSorted(const DrawParameters& p, const KernelTable& kernels, SamplerScratch* s) {
  ComputeWeights(p.max, p.inverse_temperature, kernels, s);
  const double* weights = s->weights.data();
  size_t kept = 0;
  double mass = 0.0;
  for (; kept < s->sorted.size(); ++kept) {
    const double scaled =
        (static_cast<double>(s->sorted[kept].logit) - static_cast<double>(p.max)) *
        p.inverse_temperature;
    if (!(scaled >= p.lowest_scaled)) break;
    mass += weights[kept];
  }
  if (p.top_p < 1.0) {
    kept = TopPPrefix(weights, kept, 0.0, p.top_p * mass);
    mass = 0.0;
    for (size_t i = 0; i < kept; ++i) mass += weights[i];
  }
  const double target = p.uniform * mass;
  double sum = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    sum += weights[i];
    if (sum > target) return s->sorted[i].id;
  }
  return s->sorted[kept - 1].id;
}

// The kept tokens as a prefix of the descending order: whole buckets, then some of one bucket.
struct Prefix {
  int32_t bucket;      // kept tokens of later buckets: none
  size_t in_bucket;    // kept tokens of `bucket`, in order; kWhole is all
  double mass_before;  // of the buckets before it
  double mass;         // of the prefix
};
constexpr size_t kWhole = std::numeric_limits<size_t>::max();

class BucketDraw {
 public:
  BucketDraw(const DrawParameters& p, const float* logits, int32_t vocab,
             const KernelTable& kernels, SamplerScratch* s)
      : p_(p), logits_(logits), vocab_(vocab), kernels_(kernels), s_(s) {}

  int32_t Run() {
    BucketPassArgs pass;
    pass.logits = logits_;
    pass.count = vocab_;
    pass.max = p_.max;
    pass.inverse_temperature = p_.inverse_temperature;
    pass.lowest_scaled = p_.lowest_scaled;
    pass.bucket = s_->bucket.data();
    pass.lanes = s_->lanes.data();
    pass.upper = s_->upper.data();
    pass.mass = s_->mass.data();
    kernels_.bucket_pass(pass);
    Prefix kept = All();
    if (p_.top_k > 0) kept = CutByCount(kept);
    if (p_.top_p < 1.0) kept = CutByMass(kept, p_.top_p * kept.mass);
    return TokenAt(kept, p_.uniform * kept.mass);
  }

 private:
  double Mass(int32_t b) const { return s_->mass[static_cast<size_t>(b)]; }

  // A bucket without mass holds nothing that can be drawn.
  Prefix All() const {
    Prefix all{0, kWhole, 0.0, Mass(0)};
    for (int32_t b = 1; b < kSampleBuckets; ++b) {
      if (Mass(b) > 0.0) all = {b, kWhole, all.mass, all.mass + Mass(b)};
    }
    return all;
  }

  // Tokens of a bucket, in order, and their weights.
  void Sort(int32_t b) {
    if (sorted_ == b) return;
    sorted_ = b;
    const size_t padded = SamplerScratch::RoundUp(static_cast<size_t>(vocab_));
    const int64_t count =
        kernels_.find_bucket(s_->bucket.data(), static_cast<int64_t>(padded),
                             static_cast<uint16_t>(b), s_->ids.data());
    s_->sorted.clear();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t id = s_->ids[static_cast<size_t>(i)];
      s_->sorted.push_back({logits_[id], id});
    }
    std::sort(s_->sorted.begin(), s_->sorted.end(), Precedes);
    ComputeWeights(p_.max, p_.inverse_temperature, kernels_, s_);
  }

  Prefix CutInside(int32_t b, size_t count, double before) {
    Sort(b);
    double mass = before;
    for (size_t i = 0; i < count; ++i) mass += s_->weights[i];
    return {b, count, before, mass};
  }

  Prefix CutByCount(const Prefix& kept) {
    std::fill(s_->tokens.begin(), s_->tokens.end(), 0);
    for (int32_t i = 0; i < vocab_; ++i) ++s_->tokens[s_->bucket[static_cast<size_t>(i)]];
    size_t left = static_cast<size_t>(p_.top_k);
    double before = 0.0;
    for (int32_t b = 0; b <= kept.bucket; ++b) {
      const auto tokens = static_cast<size_t>(s_->tokens[static_cast<size_t>(b)]);
      if (tokens > left) return CutInside(b, left, before);
      if (tokens == left) return {b, left, before, before + Mass(b)};
      left -= tokens;
      before += Mass(b);
    }
    return kept;
  }

  Prefix CutByMass(const Prefix& kept, double wanted) {
    double before = 0.0;
    for (int32_t b = 0; b < kept.bucket; ++b) {
      if (Mass(b) > 0.0 && before + Mass(b) >= wanted) return CutAtMass(b, kWhole, before, wanted);
      before += Mass(b);
    }
    return CutAtMass(kept.bucket, kept.in_bucket, kept.mass_before, wanted);
  }

  Prefix CutAtMass(int32_t b, size_t tokens, double before, double wanted) {
    Sort(b);
    const size_t count = std::min(tokens, s_->sorted.size());
    return CutInside(b, TopPPrefix(s_->weights.data(), count, before, wanted), before);
  }

  int32_t TokenAt(const Prefix& kept, double target) {
    double before = 0.0;
    int32_t b = 0;
    for (; b < kept.bucket; ++b) {
      if (before + Mass(b) > target) break;
      before += Mass(b);
    }
    Sort(b);
    const size_t count = std::min(b == kept.bucket ? kept.in_bucket : kWhole, s_->sorted.size());
    double sum = before;
    for (size_t i = 0; i < count; ++i) {
      sum += s_->weights[i];
      if (sum > target) return s_->sorted[i].id;
    }
    return s_->sorted[count - 1].id;  // rounding: the last one that is kept
  }

  const DrawParameters& p_;
  const float* logits_;
  const int32_t vocab_;
  const KernelTable& kernels_;
  SamplerScratch* s_;
  int32_t sorted_ = -1;
};

// The sampled token, or -1 when nothing is left to choose.
int32_t ChooseToken(const SamplerRow& row, int32_t vocab, float raw_max, const KernelTable& kernels,
                    SamplerScratch* s) {
  const float* logits = row.logits;
  DrawParameters p;
  p.max = raw_max;
  if (ChangesLogits(row)) {
    ApplyPenalties(row, vocab, s);
    logits = s->logits.data();
    bool unusable = false;
    p.max = kernels.max_logit(logits, vocab, &unusable);
    if (unusable || !std::isfinite(p.max)) return -1;
  }
  if (row.temperature < kLowestTemperature) {
    // The largest value is found as the first one above its predecessor among floats.
    return static_cast<int32_t>(
        kernels.find_greater(logits, 0, vocab, std::nextafter(p.max, kMinusInfinity)));
  }
  p.inverse_temperature = 1.0 / static_cast<double>(row.temperature);
  if (row.min_p > 0.0f) p.lowest_scaled = std::log(static_cast<double>(row.min_p));
  p.top_k = row.top_k > 0 && row.top_k < vocab ? row.top_k : 0;
  p.top_p = static_cast<double>(row.top_p);
  p.uniform = SamplerUniform(row.seed, static_cast<uint64_t>(row.sample_index));
  if (p.top_k > 0 && p.top_k <= kLargestHeap) {
    SelectTop(logits, vocab, p.top_k, kernels, &s->sorted);
    return DrawFromSorted(p, kernels, s);
  }
  return BucketDraw(p, logits, vocab, kernels, s).Run();
}

}  // namespace

SamplerScratch* CreateSamplerScratch(int32_t vocab) {
  SamplerScratch* scratch = new SamplerScratch();
  scratch->Reserve(vocab);
  return scratch;
}

void DestroySamplerScratch(SamplerScratch* scratch) { delete scratch; }

double SamplerUniform(uint64_t seed, uint64_t index) {
  const PhiloxCounter r =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (static_cast<uint64_t>(r[1]) << 32) | r[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

bool SampleRow(const SamplerRow& row, int32_t vocab, SamplerScratch* scratch, SamplerOutput* out,
               Isa isa) {
  const KernelTable& kernels = KernelsFor(isa);
  if (vocab <= 0 || row.target_id >= vocab) return false;
  scratch->Reserve(vocab);
  bool unusable = false;
  const float max = kernels.max_logit(row.logits, vocab, &unusable);
  if (unusable || !std::isfinite(max)) return false;

  const int32_t token =
      row.target_id >= 0 ? row.target_id : ChooseToken(row, vocab, max, kernels, scratch);
  if (token < 0) return false;
  out->token_id = token;
  out->logprob = 0.0f;
  out->rank = 0;
  if (row.num_top_logprobs < 0) return true;
  const double log_sum =
      static_cast<double>(max) + std::log(kernels.sum_exp(row.logits, vocab, max));
  const auto logprob = [log_sum](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  out->logprob = logprob(row.logits[token]);
  out->rank = 1 + static_cast<int32_t>(kernels.count_greater(row.logits, vocab, row.logits[token]));
  const int32_t top = std::min({row.num_top_logprobs, kMaxTopLogprobs, vocab});
  if (top > 0) {
    SelectTop(row.logits, vocab, top, kernels, &scratch->sorted);
    // Tokens at -infinity are not selected above; they fill up in the order of their ids.
    int32_t next = 0;
    while (static_cast<int32_t>(scratch->sorted.size()) < top) {
      while (row.logits[next] > kMinusInfinity) ++next;
      scratch->sorted.push_back({kMinusInfinity, next++});
    }
    for (int32_t i = 0; i < top; ++i) {
      const Candidate& c = scratch->sorted[static_cast<size_t>(i)];
      out->top_ids[i] = c.id;
      out->top_logprobs[i] = logprob(c.logit);
    }
  }
  return true;
}

}  // namespace loramux
