// What config.json files say, and what must not be believed.
#include "schedules/model/config.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <functional>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig read(std::string_view content) { return parse_config(content, "config.json", "test"); }
std::uint64_t count(std::string_view content) { return parameters(read(content).shape); }

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "nothing was refused";
}

// A small Llama in which one value is replaced, or a member added.
std::string llama_with(const std::string& key, const std::string& value) {
  std::string out = "{\"model_type\":\"llama\"";
  bool replaced = false;
  for (const auto& [name, number] : {std::pair{"hidden_size", "64"},
                                     {"num_hidden_layers", "2"},
                                     {"num_attention_heads", "4"},
                                     {"num_key_value_heads", "2"},
                                     {"intermediate_size", "96"},
                                     {"vocab_size", "128"}}) {
    out += std::string(",\"") + name + "\":" + (key == name ? value : number);
    replaced = replaced || key == name;
  }
  return out + (replaced ? "" : ",\"" + key + "\":" + value) + "}";
}

TEST(BundledModels, HaveTheirPublishedParameters) {
  const std::map<std::string_view, std::uint64_t> published{
      {"llama-3-8b", 8'030'261'248},   {"llama-3-70b", 70'553'706'496},  {"llama-3.1-405b", 405'853'388'800},
      {"qwen2.5-72b", 72'706'203'648}, {"mixtral-8x7b", 46'702'792'704}, {"deepseek-v3", 671'026'419'200}};
  ASSERT_EQ(bundled_models().size(), published.size());
  for (const auto& [name, content] : bundled_models()) {
    const ModelConfig config = parse_config(content, name, name);
    EXPECT_EQ(parameters(config.shape), published.at(name)) << name;
    EXPECT_EQ(config.shape.name, name);
    EXPECT_THAT(config.ignored, ElementsAre()) << name;
    EXPECT_THAT(config.warnings, ElementsAre()) << name;
  }
}

TEST(BundledModels, KnowTheSequenceTheyWereTrainedOn) {
  const auto sequence = [](std::string_view name) {
    return parse_config(bundled_models().at(name), name, name).shape.max_sequence;
  };
  EXPECT_EQ(sequence("llama-3-8b"), 8192u);
  EXPECT_EQ(sequence("llama-3.1-405b"), 8192u);  // stretched to 131072 afterwards
  EXPECT_EQ(sequence("deepseek-v3"), 4096u);     // stretched to 163840
}

// Counts as their model cards' safetensors say.
TEST(Config, ReadsEveryFamily) {
  EXPECT_EQ(
      count(R"({"model_type":"gpt2","n_embd":768,"n_layer":12,"n_head":12,"n_positions":1024,"n_ctx":1024,
                      "n_inner":null,"vocab_size":50257})"),
      124'439'808u);  // GPT-2
  EXPECT_EQ(count(R"({"model_type":"gpt_neox","hidden_size":512,"num_hidden_layers":6,"num_attention_heads":8,
                      "intermediate_size":2048,"vocab_size":50304,"max_position_embeddings":2048,
                      "tie_word_embeddings":false})"),
            70'426'624u);  // Pythia-70M
  EXPECT_EQ(
      count(R"({"model_type":"mistral","hidden_size":4096,"num_hidden_layers":32,"num_attention_heads":32,
                      "num_key_value_heads":8,"head_dim":null,"intermediate_size":14336,"vocab_size":32000})"),
      7'241'732'096u);  // Mistral-7B
  EXPECT_EQ(count(R"({"model_type":"gemma","hidden_size":2048,"num_hidden_layers":18,"num_attention_heads":8,
                      "num_key_value_heads":1,"head_dim":256,"intermediate_size":16384,"vocab_size":256000})"),
            2'506'172'416u);  // Gemma-2B
  EXPECT_EQ(count(R"({"model_type":"phi3","hidden_size":3072,"num_hidden_layers":32,"num_attention_heads":32,
                      "num_key_value_heads":32,"intermediate_size":8192,"vocab_size":32064})"),
            3'821'079'552u);  // Phi-3-mini
  EXPECT_EQ(count(R"({"model_type":"qwen3","hidden_size":4096,"num_hidden_layers":36,"num_attention_heads":32,
                      "num_key_value_heads":8,"head_dim":128,"intermediate_size":12288,"vocab_size":151936,
                      "attention_bias":false,"tie_word_embeddings":false})"),
            8'190'735'360u);  // Qwen3-8B
  EXPECT_EQ(
      count(R"({"model_type":"qwen2_moe","hidden_size":2048,"num_hidden_layers":24,"num_attention_heads":16,
                      "num_key_value_heads":16,"intermediate_size":5632,"moe_intermediate_size":1408,
                      "shared_expert_intermediate_size":5632,"num_experts":60,"num_experts_per_tok":4,
                      "decoder_sparse_step":1,"vocab_size":151936,"tie_word_embeddings":false})"),
      14'315'784'192u);  // Qwen1.5-MoE-A2.7B
  EXPECT_EQ(
      count(R"({"model_type":"qwen3_moe","hidden_size":2048,"num_hidden_layers":48,"num_attention_heads":32,
                      "num_key_value_heads":4,"head_dim":128,"intermediate_size":6144,"moe_intermediate_size":768,
                      "num_experts":128,"num_experts_per_tok":8,"decoder_sparse_step":1,"mlp_only_layers":[],
                      "vocab_size":151936,"tie_word_embeddings":false})"),
      30'532'122'624u);  // Qwen3-30B-A3B
  EXPECT_EQ(
      count(R"({"model_type":"deepseek_v2","hidden_size":2048,"num_hidden_layers":27,"num_attention_heads":16,
                      "num_key_value_heads":16,"q_lora_rank":null,"kv_lora_rank":512,"qk_nope_head_dim":128,
                      "qk_rope_head_dim":64,"v_head_dim":128,"intermediate_size":10944,
                      "moe_intermediate_size":1408,"n_routed_experts":64,"n_shared_experts":2,
                      "num_experts_per_tok":6,"first_k_dense_replace":1,"moe_layer_freq":1,"topk_method":"greedy",
                      "vocab_size":102400,"tie_word_embeddings":false})"),
      15'706'484'224u);  // DeepSeek-V2-Lite
}

TEST(Config, CountsOnlyTheLayersThatHaveExperts) {
  const ModelConfig config = read(
      R"({"model_type":"qwen3_moe","hidden_size":64,"num_hidden_layers":6,"num_attention_heads":4,
          "intermediate_size":96,"moe_intermediate_size":32,"num_experts":8,"num_experts_per_tok":2,
          "decoder_sparse_step":2,"mlp_only_layers":[3],"vocab_size":128})");
  EXPECT_EQ(config.shape.experts->in_layer, (std::vector<bool>{false, true, false, false, false, true}));
}

TEST(Config, OfAnUnknownKindSaysWhatItReadAndWhatItIgnored) {
  const ModelConfig config = read(
      R"({"model_type":"novel","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,
          "intermediate_size":96,"vocab_size":128,"hyper_connections":3,"torch_dtype":"bfloat16"})");
  EXPECT_THAT(config.warnings, ElementsAre(HasSubstr("model_type \"novel\" is not known")));
  EXPECT_THAT(config.read, ElementsAre("model_type", "hidden_size", "num_hidden_layers",
                                       "num_attention_heads", "intermediate_size", "vocab_size"));
  EXPECT_THAT(config.ignored, ElementsAre("hyper_connections", "torch_dtype"));
  EXPECT_EQ(config.shape.attention.key_value_heads, 4u);
}

TEST(Config, OfTextAndImagesIsReadWithin) {
  const ModelConfig config = read(
      R"({"model_type":"pictures","vision_config":{},"text_config":{"model_type":"llama","hidden_size":64,
          "num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":96,"vocab_size":128}})");
  EXPECT_EQ(config.shape.hidden, 64u);
  EXPECT_THAT(config.read, Contains("text_config/hidden_size"));
  EXPECT_THAT(config.ignored, ElementsAre("model_type", "vision_config"));
}

TEST(Config, WarnsOfASlidingWindow) {
  const ModelConfig config = read(llama_with("max_position_embeddings", "8192,\"sliding_window\":4096"));
  EXPECT_THAT(config.warnings, ElementsAre(HasSubstr("sliding window of 4096")));
}

TEST(Config, NamesTheKeyThatIsWrong) {
  const auto says = [](const std::string& key, const std::string& value) {
    return refusal([&] { read(llama_with(key, value)); });
  };
  EXPECT_THAT(says("hidden_size", "-64"), HasSubstr("config.json: /hidden_size is not an integer from 1"));
  EXPECT_THAT(says("hidden_size", "0"), HasSubstr("/hidden_size is not an integer from 1"));
  EXPECT_THAT(says("hidden_size", "64.5"), HasSubstr("/hidden_size is not an integer from 1"));
  EXPECT_THAT(says("hidden_size", "1e30"), HasSubstr("/hidden_size is not an integer from 1"));
  EXPECT_THAT(says("hidden_size", "18446744073709551616"), HasSubstr("/hidden_size is not an integer"));
  EXPECT_THAT(says("hidden_size", "4294967296"),
              HasSubstr("/hidden_size is not an integer from 1 to 2147483648"));
  EXPECT_THAT(says("hidden_size", "\"64\""), HasSubstr("/hidden_size is not an integer"));
  EXPECT_THAT(says("hidden_size", "[64]"), HasSubstr("/hidden_size is not an integer"));
  EXPECT_THAT(says("hidden_size", "null"), HasSubstr("has no key \"hidden_size\""));
  EXPECT_THAT(says("hidden_size", "NaN"), HasSubstr("is not JSON"));
  EXPECT_THAT(says("hidden_size", "Infinity"), HasSubstr("is not JSON"));
  EXPECT_THAT(says("hidden_size", "63"), HasSubstr("4 heads do not divide the hidden size 63"));
  EXPECT_THAT(says("num_hidden_layers", "100001"),
              HasSubstr("/num_hidden_layers is not an integer from 1 to 100000"));
  EXPECT_THAT(says("num_key_value_heads", "3"),
              HasSubstr("/num_key_value_heads is 3, which does not divide 4 heads"));
  EXPECT_THAT(says("tie_word_embeddings", "1"), HasSubstr("/tie_word_embeddings is not true or false"));
  EXPECT_THAT(says("n_routed_experts", "4"), HasSubstr("has no key \"moe_intermediate_size\""));
  EXPECT_THAT(says("num_local_experts", "4"), HasSubstr("has no key \"num_experts_per_tok\""));
  EXPECT_THAT(says("num_local_experts", "4,\"num_experts_per_tok\":5"),
              HasSubstr("/num_experts_per_tok is 5, more than the 4 experts"));
  EXPECT_THAT(says("hidden_size", "64,\"hidden_size\":32"), HasSubstr("\"hidden_size\" stands twice"));
  EXPECT_THAT(refusal([] { read("{}"); }),
              HasSubstr("has no key \"hidden_size\", nor \"n_embd\", \"d_model\""));
  EXPECT_THAT(refusal([] { read("[]"); }), HasSubstr("is not a JSON object"));
  EXPECT_THAT(refusal([] { read(""); }), HasSubstr("is not JSON"));
  EXPECT_THAT(refusal([] { read("{\"model_type\":5}"); }), HasSubstr("/model_type is not a string"));
}

// Every single size at its limit: refused, or counted without overflow (10^15 parameters at most).
TEST(Config, WithHugeSizesNeverOverflows) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "intermediate_size", "vocab_size", "head_dim", "num_nextn_predict_layers"}) {
    for (const char* value : {"1", "2147483648", "100000", "1073741824"}) {
      SCOPED_TRACE(std::string(key) + " = " + value);
      try {
        EXPECT_LE(count(llama_with(key, value)), 1'000'000'000'000'000u);
      } catch (const BadInput&) {
      }
    }
  }
  const std::string all = "2147483648";
  EXPECT_THAT(refusal([&] {
                read("{\"model_type\":\"llama\",\"hidden_size\":" + all + ",\"num_hidden_layers\":100000," +
                     "\"num_attention_heads\":" + all + ",\"intermediate_size\":" + all +
                     ",\"vocab_size\":" + all + ",\"head_dim\":" + all + "}");
              }),
              HasSubstr("would have about"));
}

// Any prefix, and any byte replaced, of a real file: read or refused, never anything else.
TEST(Config, SurvivesDamage) {
  const std::string whole(bundled_models().at("deepseek-v3"));
  std::size_t refused = 0;
  const auto attempt = [&](const std::string& text) {
    try {
      read(text);
    } catch (const BadInput&) {
      ++refused;
    }
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    attempt(whole.substr(0, i));
    for (const char c : {'\0', '"', '}', '-', '9', '\xff'}) {
      std::string damaged = whole;
      damaged[i] = c;
      attempt(damaged);
    }
  }
  EXPECT_GT(refused, whole.size());
}

TEST(ShortForm, IsALlamaAGptOrAnMlp) {
  ShortForm form;
  form.hidden = 4096;
  form.layers = 32;
  form.heads = 32;
  form.key_value_heads = 8;
  form.ffn = 14336;
  form.vocab = 128256;
  EXPECT_EQ(parameters(model_of(form)), 8'030'261'248u);  // Llama-3-8B
  form.ffn.reset();
  // 8/3 x 4096 = 10922.7, up to a multiple of 256: Llama-2-7B's.
  EXPECT_EQ(model_of(form).ffn, 11008u);

  ShortForm gpt;
  gpt.kind = ShortForm::Kind::gpt;
  gpt.hidden = 768;
  gpt.layers = gpt.heads = 12;
  gpt.vocab = 50257;
  gpt.sequence = 1024;
  EXPECT_EQ(parameters(model_of(gpt)), 124'439'808u);  // GPT-2

  ShortForm mlp;
  mlp.kind = ShortForm::Kind::mlp;
  mlp.hidden = 512;
  mlp.layers = 8;
  EXPECT_EQ(parameters(model_of(mlp)), 8u * 2 * 512 * 2048);  // DualPipe's example, 8 stages
}

TEST(ShortForm, NamesTheFlagThatIsWrong) {
  ShortForm form;
  form.layers = 2;
  form.heads = 3;
  EXPECT_THAT(refusal([&] { model_of(form); }), HasSubstr("--hidden: is 0"));
  form.hidden = 64;
  EXPECT_THAT(refusal([&] { model_of(form); }), HasSubstr("--heads: 3 do not divide the hidden size of 64"));
  form.heads = 4;
  form.key_value_heads = 3;
  EXPECT_THAT(refusal([&] { model_of(form); }), HasSubstr("3 key/value heads do not divide 4 heads"));
  form.hidden = std::uint64_t{1} << 40;
  EXPECT_THAT(refusal([&] { model_of(form); }),
              HasSubstr("--hidden: is 1099511627776, expected 1 to 2147483648"));
}

}  // namespace
}  // namespace plumb
