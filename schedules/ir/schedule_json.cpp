#include "schedules/ir/schedule_json.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/schedule_elements.hpp"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using nlohmann::json;

// Reads plumb.schedule/1 as the parser meets it: no tree is built, so nothing grows but the schedule.
class ScheduleReader : public nlohmann::json_sax<json> {
 public:
  explicit ScheduleReader(std::string_view where) : where_(where) {}

  ScheduleFile take() {
    for (const char* key : {"schema", "ranks", "stages", "microbatches", "actions"}) {
      if (!keys_.contains(key)) throw BadInput(where_, fmt::format("has no key \"{}\"", key));
    }
    auto& per_rank = file_.lowered.per_rank;
    if (ranks_ > max_ranks)
      throw BadInput(where_, fmt::format("/ranks: {} is beyond the limit of {}", ranks_, max_ranks));
    if (per_rank.size() > ranks_) {
      throw BadInput(where_, fmt::format("/actions has {} lists for {} ranks", per_rank.size(), ranks_));
    }
    per_rank.resize(ranks_);
    for (const LoweredRank& rank : per_rank) {
      file_.has_messages |= !rank.messages.empty();
      for (const Step& step : rank.steps) {
        const auto* batch = std::get_if<CommBatch>(&step);
        if (batch && batch->waited_together) file_.lowered.placement = CommPlacement::batched;
      }
    }
    if (file_.has_messages) fill_in_peers(file_.lowered);
    return std::move(file_);
  }

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return scalar(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ == 1) {
      const auto take = [&](std::uint32_t& into) {
        if (value == 0 || value > 0xffffffff)
          fail(fmt::format("{} is not a number from 1 to 4294967295", value));
        into = static_cast<std::uint32_t>(value);
        return true;
      };
      if (key_ == "ranks") return take(ranks_);
      if (key_ == "stages") return take(file_.lowered.stages);
      if (key_ == "microbatches") return take(file_.lowered.microbatches);
    }
    if (in_message_ && message_items_ == 1) {
      if (value >= 0xffffffff) fail("the peer is no rank");
      group_.back().peer = Rank{static_cast<std::uint32_t>(value)};
      ++message_items_;
      return true;
    }
    return scalar(fmt::format("{}", value));
  }
  bool number_float(number_float_t, const string_t& text) override { return scalar(text); }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool string(string_t& value) override {
    if (depth_ == 1) {
      if (key_ == "schema" && value != schedule_schema)
        fail(fmt::format("{} is not {}", shown(value), schedule_schema));
      if (key_ == "name") file_.lowered.name = value;
      if (key_ == "schema" || key_ == "name") return true;
    }
    if (in_message_ && message_items_ == 0) {
      const auto op = parse_op(value);
      if (!op || !is_message(op->kind)) fail(fmt::format("{} is no send or receive token", shown(value)));
      group_.push_back({*op, unknown_peer});
      ++message_items_;
      return true;
    }
    if (in_row_ && !in_group_) {
      const auto element = parse_element(value);
      if (!element) fail(fmt::format("{} is no action; expected {}", shown(value), token_grammar));
      push_element(file_.lowered.per_rank.back(), *element);
      return true;
    }
    return scalar(shown(value));
  }

  bool start_object(std::size_t) override {
    if (++depth_ == 1) return true;
    if (in_row_ && !in_group_) {
      in_group_ = true;
      group_seen_ = false;
      group_.clear();
      return true;
    }
    return nested("an object");
  }
  bool key(string_t& key) override {
    if (depth_ == 1) {
      if (!keys_.insert(key).second)
        throw BadInput(where_, fmt::format("the key {} stands twice", shown(key)));
      key_ = key;
    } else if (in_group_ && skip_ == 0) {
      if (key != "group" || group_seen_)
        fail(fmt::format("{} where the one key \"group\" was expected", shown(key)));
      group_seen_ = true;
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (skip_ > 0) {
      --skip_;
    } else if (in_group_) {
      if (!group_seen_) fail("a group element without the key \"group\"");
      push_batch(file_.lowered.per_rank.back(), group_, true);
      in_group_ = false;
    }
    return true;
  }
  bool start_array(std::size_t) override {
    ++depth_;
    if (depth_ == 1) throw BadInput(where_, "is a list, not a plumb.schedule/1 object");
    if (depth_ == 2 && key_ == "actions") return true;
    if (depth_ == 3 && key_ == "actions" && skip_ == 0) {
      in_row_ = true;
      file_.lowered.per_rank.emplace_back();
      return true;
    }
    if (in_group_ && depth_ == 5 && skip_ == 0) return in_list_ = true;
    if (in_group_ && depth_ == 6 && in_list_ && skip_ == 0) {
      in_message_ = true;
      message_items_ = 0;
      return true;
    }
    return nested("a list");
  }
  bool end_array() override {
    --depth_;
    if (skip_ > 0) {
      --skip_;
    } else if (in_message_) {
      if (message_items_ != 2) fail("a message of a group is [token, peer]");
      in_message_ = false;
    } else if (in_list_) {
      in_list_ = false;
    } else if (in_row_) {
      in_row_ = false;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string text = error.what();
    if (const auto at = text.find("] "); at != std::string::npos) text.erase(0, at + 2);
    throw BadInput(where_, fmt::format("is not JSON at byte {}: {}", position, text.substr(0, 200)));
  }

 private:
  // A value that means nothing here. Beside the known keys anything may stand; inside them nothing else.
  bool scalar(const std::string& found) {
    if (depth_ == 0) throw BadInput(where_, "is not a plumb.schedule/1 object");
    const bool known = key_ == "schema" || key_ == "name" || key_ == "ranks" || key_ == "stages" ||
                       key_ == "microbatches" || key_ == "actions";
    if (known && skip_ == 0) fail(fmt::format("{} does not belong here", found));
    return true;
  }
  bool nested(const char* found) {
    if (depth_ > 64) throw BadInput(where_, "is nested deeper than 64 levels");
    scalar(found);
    ++skip_;
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    std::string pointer = "/" + key_;
    if (key_ == "actions" && !file_.lowered.per_rank.empty()) {
      pointer += fmt::format("/{}", file_.lowered.per_rank.size() - 1);
      if (in_row_) pointer += fmt::format("/{}", file_.lowered.per_rank.back().steps.size());
    }
    throw BadInput(where_, fmt::format("{}: {}", pointer, what));
  }

  std::string where_;
  ScheduleFile file_;
  std::uint32_t ranks_ = 0;
  std::set<std::string> keys_;
  std::string key_;  // of the outermost object
  std::size_t depth_ = 0;
  std::size_t skip_ = 0;  // open brackets inside unknown keys
  bool in_row_ = false;
  bool in_group_ = false;
  bool group_seen_ = false;
  bool in_list_ = false;
  bool in_message_ = false;
  int message_items_ = 0;
  std::vector<Message> group_;
};

void append_json_head(std::string& text, const std::string& name, std::uint32_t ranks, std::uint32_t stages,
                      std::uint32_t microbatches) {
  text += fmt::format(
      "{{\"schema\":\"{}\",\"name\":{},\"ranks\":{},\"stages\":{},\"microbatches\":{},\"actions\":[",
      schedule_schema, json(name).dump(-1, ' ', false, json::error_handler_t::replace), ranks, stages,
      microbatches);
}

}  // namespace

ScheduleFile parse_schedule_json(std::string_view content, std::string_view where) {
  ScheduleReader reader(where);
  json::sax_parse(content.begin(), content.end(), &reader);
  return reader.take();
}

void write_schedule_json(std::ostream& out, const Schedule& schedule) {
  Writer writer(out);
  append_json_head(writer.text, schedule.name, schedule.ranks(), schedule.stages, schedule.microbatches);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    writer.text += r == 0 ? "[" : ",[";
    bool first = true;
    for (const Action& action : schedule.actions[r]) {
      writer.text += first ? "\"" : ",\"";
      first = false;
      append(writer.text, action);
      writer.text += '"';
      writer.drain();
    }
    writer.text += ']';
  }
  writer.text += "]}\n";
}

void write_schedule_json(std::ostream& out, const LoweredSchedule& lowered) {
  Writer writer(out);
  append_json_head(writer.text, lowered.name, lowered.ranks(), lowered.stages, lowered.microbatches);
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const LoweredRank& rank = lowered.per_rank[r];
    writer.text += r == 0 ? "[" : ",[";
    bool first = true;
    for (const Step& step : rank.steps) {
      if (std::holds_alternative<Collective>(step)) continue;
      if (!first) writer.text += ',';
      first = false;
      if (const auto* action = std::get_if<Action>(&step)) {
        writer.text += '"';
        append(writer.text, *action);
        writer.text += '"';
      } else {
        const auto& batch = std::get<CommBatch>(step);
        if (batch.waited_together) writer.text += "{\"group\":[";
        bool first_message = true;
        for (const Message& message : rank.messages_of(batch)) {
          if (!first_message) writer.text += ',';
          first_message = false;
          writer.text += batch.waited_together ? "[\"" : "\"";
          append(writer.text, message.op);
          writer.text += '"';
          if (batch.waited_together)
            fmt::format_to(std::back_inserter(writer.text), ",{}]", message.peer.value);
        }
        if (batch.waited_together) writer.text += "]}";
      }
      writer.drain();
    }
    writer.text += ']';
  }
  writer.text += "]}\n";
}

}  // namespace plumb
