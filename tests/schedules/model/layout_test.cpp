#include "schedules/ir/error.hpp"
#include "tests/schedules/model/shapes.hpp"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using testing::deepseek_v3;
using testing::gpt;
using ::testing::HasSubstr;
using testing::layout_of;
using testing::llama;
using testing::mixtral_8x7b;
using testing::mlp;

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "nothing was refused";
}

std::vector<std::uint64_t> layers_of(const std::vector<StageContent>& stages) {
  std::vector<std::uint64_t> out;
  for (const StageContent& stage : stages) out.push_back(stage.layers);
  return out;
}

TEST(EvenStages, AreShorterAtTheEndThenAtTheBegin) {
  const ModelShape model = llama(8, 13, 4, 2, 12, 32);
  EXPECT_EQ(layers_of(even_stages(model, 1)), (std::vector<std::uint64_t>{13}));
  EXPECT_EQ(layers_of(even_stages(model, 2)), (std::vector<std::uint64_t>{7, 6}));
  EXPECT_EQ(layers_of(even_stages(model, 3)), (std::vector<std::uint64_t>{4, 5, 4}));
  EXPECT_EQ(layers_of(even_stages(model, 4)), (std::vector<std::uint64_t>{3, 4, 3, 3}));
  EXPECT_EQ(layers_of(even_stages(model, 13)), (std::vector<std::uint64_t>(13, 1)));
  EXPECT_THAT(refusal([&] { even_stages(model, 14); }),
              HasSubstr("14 stages are more than the model's 13 layers"));
  EXPECT_THAT(refusal([&] { even_stages(model, 0); }), HasSubstr("there must be one at least"));
}

TEST(EvenStages, PutEmbeddingFirstAndMtpAndHeadLast) {
  const std::vector<StageContent> stages = even_stages(deepseek_v3(), 16);
  EXPECT_TRUE(stages.front().embedding && stages.back().head);
  EXPECT_EQ(stages.back().multi_token_layers, 1u);
  EXPECT_EQ(to_megatron(stages), "Ettt|(t*4|)*13ttt|tttmL");
  EXPECT_EQ(to_megatron(even_stages(mlp(8, 4), 4)), "t|t|t|tL");  // folded it would be no shorter
}

TEST(LayoutString, IsReadAsMegatronReadsIt) {
  // Its own documentation's example for DeepSeek-V3: embedding and 3 layers, 29 stages of two, MTP and loss
  // last.
  const std::vector<StageContent> stages = parse_stages("Et*3|(tt|)*29,m|L", deepseek_v3());
  ASSERT_EQ(stages.size(), 32u);
  EXPECT_EQ(stages[0], (StageContent{0, 3, 0, true, false, Recompute::none}));
  EXPECT_EQ(stages[1], (StageContent{3, 2, 0, false, false, Recompute::none}));
  EXPECT_EQ(stages[29], (StageContent{59, 2, 0, false, false, Recompute::none}));
  EXPECT_EQ(stages[30], (StageContent{61, 0, 1, false, false, Recompute::none}));
  EXPECT_EQ(stages[31], (StageContent{61, 0, 0, false, true, Recompute::none}));
}

TEST(LayoutString, ComesBackTheSame) {
  const ModelShape model = deepseek_v3();
  for (std::uint32_t stages = 1; stages <= 61; ++stages) {
    const std::vector<StageContent> even = even_stages(model, stages);
    EXPECT_EQ(parse_stages(to_megatron(even), model), even) << to_megatron(even);
  }
  EXPECT_EQ(to_megatron(parse_stages("E|(t|)*61m|L", model)), "E|(t|)*61m|L");
  EXPECT_EQ(to_megatron(parse_stages("E t*3, | ( (t t) * 1 | ) * 29 , m L", model)), "Ettt|(tt|)*29mL");
}

// Megatron unrolls by textual replacement: first every (…)*n without parentheses inside, then every x*n of
// one letter.
std::string unrolled(std::string text) {
  const auto number = [&](std::size_t at) {
    std::size_t end = at;
    while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
    return std::pair(std::stoul(text.substr(at, end - at)), end);
  };
  const auto repeat = [](const std::string& what, std::size_t times) {
    std::string out;
    for (std::size_t i = 0; i < times; ++i) out += what;
    return out;
  };
  for (std::size_t open = text.find('('); open != std::string::npos; open = text.find('(')) {
    const std::size_t close = text.find(')', open);
    const auto [times, end] = number(close + 2);
    text = text.substr(0, open) + repeat(text.substr(open + 1, close - open - 1), times) + text.substr(end);
  }
  for (std::size_t star = text.find('*'); star != std::string::npos; star = text.find('*')) {
    const auto [times, end] = number(star + 1);
    text = text.substr(0, star - 1) + repeat(text.substr(star - 1, 1), times) + text.substr(end);
  }
  return text;
}

TEST(LayoutString, IsWrittenAsMegatronUnrollsIt) {
  const ModelShape model = deepseek_v3();
  for (std::uint32_t stages = 1; stages <= 61; ++stages) {
    const std::vector<StageContent> even = even_stages(model, stages);
    std::string letters;
    for (const StageContent& stage : even) {
      letters += (letters.empty() ? "" : "|") + std::string(stage.embedding ? "E" : "") +
                 std::string(stage.layers, 't') + std::string(stage.multi_token_layers, 'm') +
                 (stage.head ? "L" : "");
    }
    EXPECT_EQ(unrolled(to_megatron(even)), letters);
  }
}

// Any string of the alphabet: refused, or stages that come back the same.
TEST(LayoutString, OfAnyLettersIsReadOrRefused) {
  ModelShape model = llama(8, 4, 4, 2, 12, 32);
  model.multi_token_layers = 1;
  constexpr std::string_view alphabet = "EttttmL||()*234, x";
  std::uint64_t state = 1;  // xorshift; the seed is part of the test
  const auto next = [&](std::size_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<std::size_t>(state % below);
  };
  std::size_t accepted = 0;
  for (int i = 0; i < 50'000; ++i) {
    // Half of them are a good string with a few letters replaced.
    std::string text = i % 2 ? "Et|(t)*2|t,mL" : std::string(next(16), 't');
    for (std::size_t changes = i % 2 ? next(4) : text.size(); changes > 0 && !text.empty(); --changes)
      text[next(text.size())] = alphabet[next(alphabet.size())];
    try {
      const std::vector<StageContent> stages = parse_stages(text, model);
      ++accepted;
      EXPECT_EQ(parse_stages(to_megatron(stages), model), stages) << text;
    } catch (const BadInput&) {
    }
  }
  EXPECT_GT(accepted, 1000u);
}

TEST(LayoutString, SaysWhereItIsWrong) {
  const ModelShape model = llama(8, 4, 4, 2, 12, 32);
  const auto says = [&](const char* text) { return refusal([&] { parse_stages(text, model); }); };
  EXPECT_THAT(says("Ett|xttL"), HasSubstr("at character 5: 'x' is none of E"));
  EXPECT_THAT(says("Ett|ttt L"), HasSubstr("at character 7: one layer more than the model's 4"));
  EXPECT_THAT(says("Ett||ttL"), HasSubstr("at character 5: stage 1 is empty"));
  EXPECT_THAT(says("Ett|ttL|"), HasSubstr("stage 2 is empty"));
  EXPECT_THAT(says("Ett|tL"),
              HasSubstr("at character 5: stage 1 is the last, but only 3 of the model's 4 layers"));
  EXPECT_THAT(says("tt|ttL"), HasSubstr("at character 1: stage 0 has no embedding (E)"));
  EXPECT_THAT(says("Ett|tt"), HasSubstr("at character 5: stage 1 has no head and loss (L)"));
  EXPECT_THAT(says("Ett|EttL"), HasSubstr("at character 5: E, the embedding, comes first of all"));
  EXPECT_THAT(says("EttL|tt"), HasSubstr("holds the head, which belongs on the last stage"));
  EXPECT_THAT(says("EttLtt"), HasSubstr("at character 5: nothing comes behind L"));
  EXPECT_THAT(says("Ettttm|L"), HasSubstr("holds MTP module 1; the model has 0"));
  EXPECT_THAT(says("E(tt|ttL"), HasSubstr("at character 2: '(' is never closed"));
  EXPECT_THAT(says("Ett)|ttL"), HasSubstr("at character 4: ')' closes nothing"));
  EXPECT_THAT(says("Et*|ttL"), HasSubstr("at character 3: '*' needs a number from 1"));
  EXPECT_THAT(says("Et*0|ttL"), HasSubstr("at character 3: '*' needs a number from 1"));
  EXPECT_THAT(says(""), HasSubstr("stage 0 is empty"));
}

TEST(LayoutString, CannotFillTheMemory) {
  const ModelShape model = llama(8, 4, 4, 2, 12, 32);
  const auto says = [&](const std::string& text) { return refusal([&] { parse_stages(text, model); }); };
  EXPECT_THAT(says("E(((t*9999)*9999)*9999)*9999|L"), HasSubstr("more than 65536 letters"));
  EXPECT_THAT(says("Et*99999999999999999999999"), HasSubstr("more than 65536 letters"));
  EXPECT_THAT(says(std::string(100, '(')), HasSubstr("nested deeper than 16"));
  EXPECT_THAT(says(std::string(100'000, 't')), HasSubstr("longer than 65536"));
}

TEST(Recompute, IsSetForAllStagesOrByRange) {
  const auto set = [](std::string_view text) {
    std::vector<StageContent> stages(5);
    set_recompute(stages, text);
    std::string out;
    for (const StageContent& stage : stages) out += "nsf"[static_cast<int>(stage.recompute)];
    return out;
  };
  EXPECT_EQ(set("full"), "fffff");
  EXPECT_EQ(set("full:0-2,selective"), "fffss");
  EXPECT_EQ(set("selective:4,full:1"), "nfnns");
  const auto says = [&](std::string_view text) { return refusal([&] { set(text); }); };
  EXPECT_THAT(says("some"), HasSubstr("--recompute: 'some' is not none, selective or full"));
  EXPECT_THAT(says(""), HasSubstr("'' is not none, selective or full"));
  EXPECT_THAT(says("full:5"), HasSubstr("'5' in 'full:5' is not a stage from 0 to 4"));
  EXPECT_THAT(says("full:-1"), HasSubstr("'' in 'full:-1' is not a stage"));
  EXPECT_THAT(says("full:3-1"), HasSubstr("ends before it begins"));
  EXPECT_THAT(says("full:1,none:0-2"), HasSubstr("stage 1 is named twice"));
  EXPECT_THAT(says("full,none"), HasSubstr("is said twice"));
}

TEST(CheckLayout, AcceptsWhatCanBe) {
  Layout layout = layout_of(deepseek_v3(), 16, 1, 4096);
  layout.parallelism.data = 128;
  layout.parallelism.expert = 64;
  check_layout(deepseek_v3(), layout);
  check_layout(mlp(8, 4), layout_of(mlp(8, 4), 4, 1, 8));
}

TEST(CheckLayout, NamesTheDegreeThatDoesNotFit) {
  const auto says = [](const ModelShape& model, const std::function<void(Layout&)>& change) {
    Layout layout = layout_of(model, 2, 1, 4096);
    change(layout);
    return refusal([&] { check_layout(model, layout); });
  };
  const ModelShape dense = llama(4096, 32, 32, 8, 14336, 128256);
  EXPECT_THAT(says(dense, [](Layout& l) { l.parallelism.tensor = 3; }),
              HasSubstr("tp: 3 does not divide the 32 attention heads"));
  EXPECT_THAT(says(llama(96, 2, 12, 4, 24, 64), [](Layout& l) { l.parallelism.tensor = 6; }),
              HasSubstr("tp: 6 neither divides the 4 key/value heads"));
  EXPECT_THAT(says(llama(96, 2, 12, 12, 26, 64), [](Layout& l) { l.parallelism.tensor = 4; }),
              HasSubstr("tp: 4 does not divide the FFN's 26"));
  EXPECT_THAT(says(dense, [](Layout& l) { l.parallelism.tensor = 8, l.sequence = 4095; }),
              HasSubstr("tp: 8 does not divide the sequence of 4095 tokens"));
  EXPECT_THAT(says(dense, [](Layout& l) { l.parallelism.expert = 2; }),
              HasSubstr("ep: the model has no experts"));
  EXPECT_THAT(says(mixtral_8x7b(), [](Layout& l) { l.parallelism.expert = 8; }),
              HasSubstr("ep: 8 does not divide tp x dp = 1 x 1"));
  EXPECT_THAT(says(mixtral_8x7b(), [](Layout& l) { l.parallelism.data = l.parallelism.expert = 16; }),
              HasSubstr("ep: 16 does not divide the 8 routed experts"));
  EXPECT_THAT(says(mixtral_8x7b(),
                   [](Layout& l) { l.parallelism.tensor = 2, l.parallelism.sequence_parallel = false; }),
              HasSubstr("need sequence parallelism"));
  EXPECT_THAT(says(mlp(8, 4), [](Layout& l) { l.parallelism.tensor = 2; }),
              HasSubstr("an mlp stage is not split"));
  EXPECT_THAT(says(gpt(64, 2, 4), [](Layout&) {}),
              HasSubstr("--sequence: 4096 tokens are more than the model's 2048"));
  EXPECT_THAT(says(dense, [](Layout& l) { l.parallelism.data = 0; }), HasSubstr("is 0; 1 means none"));
  EXPECT_THAT(says(dense, [](Layout& l) { l.stages[1].first_layer = 17; }),
              HasSubstr("stage 1 begins with layer 17, expected layer 16"));
  EXPECT_THAT(says(dense, [](Layout& l) { l.sequence = l.micro_batch_size = std::uint64_t{1} << 31; }),
              HasSubstr("more bytes than can be counted"));
}

}  // namespace
}  // namespace plumb
