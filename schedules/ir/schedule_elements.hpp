// The elements of a schedule's list as all its forms write them: how a reader puts one into a rank, and what
// the forms share of reading and writing text. Private to this folder.
#pragma once
#include "schedules/ir/lower.hpp"

#include <cstddef>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace plumb {

/// What heads our own forms.
inline constexpr std::string_view schedule_schema = "plumb.schedule/1";

/// One element that is no group: an action, a message or a collective.
using Element = std::variant<Action, Message, Collective>;

/// Of one token; nothing where it is none. A message's peer is unknown_peer.
std::optional<Element> parse_element(std::string_view token);
/// For messages: what a token may be.
inline constexpr std::string_view token_grammar =
    "a token such as 0F3, 2I1, 2W1, 3B0, (0F5;3B2)OVERLAP_F_B, 1SEND_F0, 2RECV_B4 or 0REDUCE_GRAD";
/// A foreign token in a message: short, and without control characters.
std::string shown(std::string_view text);

void push_element(LoweredRank& rank, const Element& element);
void push_batch(LoweredRank& rank, const std::vector<Message>& messages, bool waited_together);
/// Flat tokens name no peer: it is the rank of the neighbouring op. Where nobody runs that op the peer stays
/// unknown and `check` says what is missing.
void fill_in_peers(LoweredSchedule& lowered);

/// Without spaces, tabs and carriage returns at either end.
std::string_view trimmed(std::string_view text);

/// Calls `visit` with each part between separators; the last part may be empty.
template <class Visit>
void for_each_part(std::string_view text, char separator, Visit visit) {
  for (std::size_t begin = 0;;) {
    const auto end = text.find(separator, begin);
    visit(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return;
    begin = end + 1;
  }
}

/// Collects output in a buffer and hands it to the stream in pieces.
class Writer {
 public:
  explicit Writer(std::ostream& out) : out_(out) {}
  ~Writer() { flush(); }
  std::string text;
  void drain() {
    if (text.size() > (1u << 16)) flush();
  }

 private:
  void flush() {
    out_.write(text.data(), static_cast<std::streamsize>(text.size()));
    text.clear();
  }
  std::ostream& out_;
};

}  // namespace plumb
