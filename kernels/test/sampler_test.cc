// Decisions equal the reference's exactly; log-probabilities within 2e-6 absolute plus 1e-6
// relative.
#include "loramux/sampler.h"

#include <algorithm>
#include <cmath>

#include "cpu/philox.h"
#include "loramux/cpu_features.h"
#include "test/check.h"

namespace loramux::test {
namespace {

struct Output {
  int32_t top_ids[kMaxTopLogprobs] = {};
  float top_logprobs[kMaxTopLogprobs] = {};
  SamplerOutput out;
  Output() {
    out.top_ids = top_ids;
    out.top_logprobs = top_logprobs;
  }
};

bool CloseLogprob(float a, float b) {
  if (std::isinf(a) || std::isinf(b)) return a == b;
  const double x = static_cast<double>(a);
  const double y = static_cast<double>(b);
  return std::fabs(x - y) <= 2e-6 + 1e-6 * std::fabs(y);
}

// A request's settings together with the arrays they point to.
struct Request {
  std::vector<float> logits;
  std::vector<int32_t> history, bias_ids;
  std::vector<float> bias_values;
  SamplerRow row;

  const SamplerRow& Row() {
    row.logits = logits.data();
    row.history = history.data();
    row.history_length = static_cast<int32_t>(history.size());
    row.bias_ids = bias_ids.data();
    row.bias_values = bias_values.data();
    row.num_bias = static_cast<int32_t>(bias_ids.size());
    return row;
  }
  std::string Describe() const {
    return Format("vocab %zu T %g k %d p %g min_p %g rep %g pres %g freq %g bias %zu seed %llu #%d",
                  logits.size(), static_cast<double>(row.temperature), row.top_k,
                  static_cast<double>(row.top_p), static_cast<double>(row.min_p),
                  static_cast<double>(row.repetition_penalty),
                  static_cast<double>(row.presence_penalty),
                  static_cast<double>(row.frequency_penalty), bias_ids.size(),
                  static_cast<unsigned long long>(row.seed), row.sample_index);
  }
};

Request RandomRequest(Random* random) {
  const int32_t vocabs[] = {1, 2, 7, 17, 64, 257, 1000, 4096, 5003};
  Request r;
  const int32_t vocab = vocabs[random->Int(0, 8)];
  const float spreads[] = {0.0f, 0.5f, 3.0f, 20.0f};
  r.logits = random->Normals(static_cast<size_t>(vocab), spreads[random->Int(0, 3)]);
  if (random->Int(0, 2) == 0) {  // ties
    for (float& v : r.logits) v = std::round(v);
  }
  if (random->Int(0, 3) == 0) {  // tokens that the model itself rules out
    for (size_t i = 1; i < r.logits.size(); i += 3) r.logits[i] = -INFINITY;
  }
  const float temperatures[] = {0.0f, 0.1f, 0.7f, 1.0f, 1.5f, 10.0f};
  r.row.temperature = temperatures[random->Int(0, 5)];
  const int32_t ks[] = {0, 0, 1, 5, 50, 1024, 1500, 100000};
  r.row.top_k = ks[random->Int(0, 7)];
  const float ps[] = {1.0f, 1.0f, 0.95f, 0.5f, 0.01f, 0.999999f};
  r.row.top_p = ps[random->Int(0, 5)];
  const float min_ps[] = {0.0f, 0.0f, 0.02f, 0.3f, 1.0f};
  r.row.min_p = min_ps[random->Int(0, 4)];
  if (random->Int(0, 1) == 0) {
    const float repetitions[] = {1.0f, 1.2f, 0.8f, 2.0f};
    r.row.repetition_penalty = repetitions[random->Int(0, 3)];
    r.row.presence_penalty = static_cast<float>(random->Int(-2, 2)) * 0.5f;
    r.row.frequency_penalty = static_cast<float>(random->Int(-2, 2)) * 0.25f;
    for (int32_t i = random->Int(0, 40); i > 0; --i) {
      r.history.push_back(random->Int(0, std::min(vocab - 1, 30)));
    }
    r.row.history_prompt_length =
        r.history.empty() ? 0 : random->Int(0, static_cast<int32_t>(r.history.size()));
  }
  for (int32_t i = random->Int(-3, 4); i > 0; --i) {
    r.bias_ids.push_back(random->Int(0, vocab - 1));
    r.bias_values.push_back(random->Int(0, 2) == 0 ? -INFINITY : random->Normal() * 5.0f);
  }
  r.row.seed = random->Next();
  r.row.sample_index = random->Int(0, 5000);
  r.row.num_top_logprobs = random->Int(-2, kMaxTopLogprobs);
  r.row.num_top_logprobs = std::max(r.row.num_top_logprobs, -1);
  if (random->Int(0, 7) == 0) r.row.target_id = random->Int(0, vocab - 1);
  return r;
}

void CheckSame(Request* r, SamplerScratch* scratch) {
  const int32_t vocab = static_cast<int32_t>(r->logits.size());
  Output want;
  const bool ok = reference::SampleRow(r->Row(), vocab, &want.out);
  for (Isa isa : SupportedIsas()) {
    Output got;
    const bool got_ok = SampleRow(r->Row(), vocab, scratch, &got.out, isa);
    const std::string where = r->Describe() + " " + IsaName(isa);
    CHECK_THAT(got_ok == ok, where);
    if (!ok || !got_ok) continue;
    CHECK_THAT(got.out.token_id == want.out.token_id,
               where + Format(" token %d, reference %d", got.out.token_id, want.out.token_id));
    CHECK_THAT(got.out.rank == want.out.rank, where);
    CHECK_THAT(CloseLogprob(got.out.logprob, want.out.logprob),
               where + Format(" logprob %.9g, reference %.9g", static_cast<double>(got.out.logprob),
                              static_cast<double>(want.out.logprob)));
    for (int32_t i = 0; i < std::min(r->row.num_top_logprobs, vocab); ++i) {
      CHECK_THAT(got.top_ids[i] == want.top_ids[i], where + Format(" top %d", i));
      CHECK_THAT(CloseLogprob(got.top_logprobs[i], want.top_logprobs[i]), where);
    }
  }
}

LORAMUX_TEST(PhiloxMatchesKnownAnswers) {
  // The published vectors of Random123 (kat_vectors, philox4x32 10).
  CHECK((Philox4x32({0, 0, 0, 0}, {0, 0}) ==
         PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffffu;
  CHECK((Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
         PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

LORAMUX_TEST(SamplerUniformIsUniformAndPure) {
  double sum = 0.0;
  int low = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    const double u = SamplerUniform(Seed(), i);
    CHECK(u >= 0.0 && u < 1.0 && u == SamplerUniform(Seed(), i));
    sum += u;
    low += u < 0.25;
  }
  CHECK_THAT(std::fabs(sum / 20000 - 0.5) < 0.01, Format("mean %g", sum / 20000));
  CHECK_THAT(std::abs(low - 5000) < 300, Format("%d below 1/4", low));
  CHECK(SamplerUniform(1, 0) != SamplerUniform(uint64_t{1} << 32, 0));
}

LORAMUX_TEST(SamplerMatchesReference) {
  SamplerScratch* scratch = CreateSamplerScratch(5003);
  Random random(Seed());
  for (int i = 0; i < 3000; ++i) {
    Request r = RandomRequest(&random);
    CheckSame(&r, scratch);
  }
  DestroySamplerScratch(scratch);
}

// Vocabularies of today's models, peaked and flat, through both ways of drawing.
LORAMUX_TEST(SamplerMatchesReferenceOnLargeVocabularies) {
  SamplerScratch* scratch = CreateSamplerScratch(1);  // grows
  Random random(Seed() + 1);
  for (float spread : {0.01f, 1.0f, 6.0f}) {
    Request r;
    r.logits = random.Normals(151936, spread);
    for (int i = 0; i < 12; ++i) {
      r.row.temperature = 1.0f;
      r.row.top_p = i % 3 == 0 ? 0.9f : 1.0f;
      r.row.top_k = i % 4 == 1 ? 40 : i % 4 == 2 ? 5000 : 0;
      r.row.min_p = i % 5 == 4 ? 0.01f : 0.0f;
      r.row.num_top_logprobs = 5;
      r.row.seed = random.Next();
      CheckSame(&r, scratch);
    }
  }
  DestroySamplerScratch(scratch);
}

LORAMUX_TEST(SamplerFollowsTheDistribution) {
  SamplerScratch* scratch = CreateSamplerScratch(8);
  const double p[] = {0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005};
  Request r;
  for (double x : p) r.logits.push_back(static_cast<float>(std::log(x)) + 3.0f);
  r.row.temperature = 1.0f;
  r.row.seed = Seed();
  constexpr int kDraws = 50000;
  for (int32_t top_k : {0, 8}) {
    r.row.top_k = top_k;
    int count[8] = {};
    for (int i = 0; i < kDraws; ++i) {
      r.row.sample_index = i;
      Output o;
      CHECK(SampleRow(r.Row(), 8, scratch, &o.out, DetectIsa()));
      ++count[o.out.token_id];
    }
    double chi_square = 0.0;
    for (int i = 0; i < 8; ++i) {
      const double expected = p[i] * kDraws;
      chi_square += (count[i] - expected) * (count[i] - expected) / expected;
    }
    CHECK_THAT(chi_square < 24.3, Format("chi square %g, 0.1 %% limit for 7 is 24.3", chi_square));
  }
  DestroySamplerScratch(scratch);
}

LORAMUX_TEST(SamplerBreaksTiesByLowerId) {
  SamplerScratch* scratch = CreateSamplerScratch(40);
  for (Isa isa : SupportedIsas()) {
    Request r;
    r.logits.assign(40, -1.0f);
    r.logits[9] = r.logits[33] = 2.0f;
    r.logits[20] = 0.0f;
    r.logits[21] = -0.0f;
    r.row.num_top_logprobs = 4;
    Output o;
    CHECK(SampleRow(r.Row(), 40, scratch, &o.out, isa));
    CHECK(o.out.token_id == 9 && o.out.rank == 1);
    CHECK(o.top_ids[0] == 9 && o.top_ids[1] == 33 && o.top_ids[2] == 20 && o.top_ids[3] == 21);
    r.bias_ids = {9};
    r.bias_values = {-INFINITY};
    CHECK(SampleRow(r.Row(), 40, scratch, &o.out, isa));
    CHECK(o.out.token_id == 33 && o.out.rank == 1);
    CHECK(o.top_ids[0] == 9);  // what is reported is the model's own distribution
    r.row.temperature = 1.0f;
    r.row.top_k = 1;
    CHECK(SampleRow(r.Row(), 40, scratch, &o.out, isa) && o.out.token_id == 33);
  }
  DestroySamplerScratch(scratch);
}

LORAMUX_TEST(SamplerRefusesUnusableRows) {
  SamplerScratch* scratch = CreateSamplerScratch(37);
  for (Isa isa : SupportedIsas()) {
    for (size_t at : {size_t{0}, size_t{16}, size_t{36}}) {
      for (float bad : {NAN, INFINITY}) {
        Request r;
        r.logits.assign(37, 0.5f);
        r.logits[at] = bad;
        Output o;
        CHECK(!SampleRow(r.Row(), 37, scratch, &o.out, isa));
        CHECK(!reference::SampleRow(r.Row(), 37, &o.out));
      }
    }
    Request r;
    r.logits.assign(37, -INFINITY);
    Output o;
    CHECK(!SampleRow(r.Row(), 37, scratch, &o.out, isa));
    r.logits[3] = 1.0f;
    CHECK(SampleRow(r.Row(), 37, scratch, &o.out, isa) && o.out.token_id == 3);
    CHECK(o.out.logprob == 0.0f);
    r.row.temperature = 1.0f;
    CHECK(SampleRow(r.Row(), 37, scratch, &o.out, isa) && o.out.token_id == 3);
    r.bias_ids = {3};
    r.bias_values = {-INFINITY};
    CHECK(!SampleRow(r.Row(), 37, scratch, &o.out, isa));
    r.row.target_id = 4;
    CHECK(SampleRow(r.Row(), 37, scratch, &o.out, isa));
    CHECK(o.out.token_id == 4 && o.out.rank == 2 && std::isinf(o.out.logprob));
    r.row.target_id = 37;
    CHECK(!SampleRow(r.Row(), 37, scratch, &o.out, isa));
  }
  DestroySamplerScratch(scratch);
}

LORAMUX_TEST(SamplerIgnoresIdsOutsideTheVocabulary) {
  SamplerScratch* scratch = CreateSamplerScratch(16);
  Request r;
  r.logits.assign(16, 0.0f);
  r.logits[5] = 1.0f;
  r.history = {-1, 16, 1 << 30, 5};
  r.row.frequency_penalty = 0.5f;
  r.bias_ids = {16, -7};
  r.bias_values = {50.0f, 50.0f};
  for (Isa isa : SupportedIsas()) {
    Output o;
    CHECK(SampleRow(r.Row(), 16, scratch, &o.out, isa) && o.out.token_id == 5);
  }
  DestroySamplerScratch(scratch);
}

LORAMUX_TEST(SamplerDoesNotAllocateAfterWarmUp) {
  SamplerScratch* scratch = CreateSamplerScratch(5003);
  Random random(Seed() + 2);
  std::vector<Request> requests;
  for (int i = 0; i < 300; ++i) requests.push_back(RandomRequest(&random));
  const Isa isa = DetectIsa();
  for (int round = 0; round < 2; ++round) {
    const int64_t before = Allocations();
    for (Request& r : requests) {
      Output o;
      SampleRow(r.Row(), static_cast<int32_t>(r.logits.size()), scratch, &o.out, isa);
    }
    if (round == 1) {
      const int64_t after = Allocations();
      CHECK_THAT(after == before,
                 Format("%lld allocations", static_cast<long long>(after - before)));
    }
  }
  DestroySamplerScratch(scratch);
}

}  // namespace
}  // namespace loramux::test
