#include "keeld/rollout/approvals.h"

#include <algorithm>
#include <cctype>

#include "core/reference.h"
#include "keeld/json.h"
#include "keeld/random_id.h"

namespace keel {
namespace {

constexpr const char* kApproval = "approval";
constexpr const char* kVotes = "votes";
constexpr int kMostVotes = 100;

json_t* time_or_null(Time time) {
    return time == Time{} ? json_null() : json_text(format_time(time));
}

Time time_of(const json_t* object, const char* key) {
    return parse_time(text_of(object, key)).value_or(Time{});
}

// Keel writes kinds in small letters, and its bots everything.
bool same_name(std::string_view one, std::string_view other) {
    return std::ranges::equal(one, other, [](unsigned char left, unsigned char right) {
        return std::tolower(left) == std::tolower(right);
    });
}

// Of the image field that is to be written; the one that stays where none is.
std::string tag_before(const Target& target) {
    if (target.from_image.empty()) {
        return target.tag.name;
    }
    const Expected<Reference> before = Reference::parse(target.from_image);
    const std::optional<Tag> tag = before ? before->tag() : std::nullopt;
    return tag ? tag->name : target.from_image;
}

// "Deployment/shop/cart:1.28@sha256:…,1.4@sha256:…": each content once.
std::string identifier_of(const WorkloadKey& key, const std::vector<Target>& targets) {
    std::vector<std::string> parts;
    for (const Target& target : targets) {
        std::string part = target.tag.name + "@" + target.to.to_string();
        if (std::ranges::find(parts, part) == parts.end()) {
            parts.push_back(std::move(part));
        }
    }
    std::string text = key.to_string();
    for (const std::string& part : parts) {
        text += (&part == &parts.front() ? ":" : ",") + part;
    }
    return text;
}

std::string votes_text(int count) {
    return std::to_string(count) + (count == 1 ? " vote" : " votes");
}

std::string names_of(const std::map<std::string, Time>& voters) {
    std::string text;
    for (const auto& [name, at] : voters) {
        text += (text.empty() ? "" : ", ") + name;
    }
    return text;
}

OrderResult refuse(const std::string& on, const char* code, std::string text) {
    return OrderResult{on, false, code, std::move(text)};
}

}  // namespace

std::string_view to_string(Approval::State state) {
    switch (state) {
        case Approval::State::pending:
            return "pending";
        case Approval::State::approved:
            return "approved";
        case Approval::State::rejected:
            return "rejected";
        case Approval::State::expired:
            return "expired";
    }
    return "";
}

Approval::State Approval::state(Time now) const {
    if (!rejected_by.empty()) {
        return State::rejected;
    }
    if (static_cast<int>(voters.size()) >= needed) {
        return State::approved;
    }
    return now < deadline ? State::pending : State::expired;
}

std::string approval_to_json(const Approval& approval) {
    const Json root(json_object());
    const auto set = [&root](const char* key, json_t* value) {
        json_object_set_new(root.get(), key, value);
    };
    set("workload", json_text(approval.workload));
    set("uid", json_text(approval.uid));
    set("targets", json_text(approval.targets));
    set("identifier", json_text(approval.identifier));
    set("current", json_text(approval.current));
    set("wanted", json_text(approval.wanted));
    set("tag", json_text(approval.tag));
    set("digest", json_text(approval.digest));
    set("why", json_text(approval.why));
    set("needed", json_integer(approval.needed));
    json_t* voters = json_object();
    for (const auto& [name, at] : approval.voters) {
        json_object_set_new(voters, name.c_str(), json_text(format_time(at)));
    }
    set("voters", voters);
    set("rejected_by", json_text_or_null(approval.rejected_by));
    set("reason", json_text_or_null(approval.reason));
    set("created", json_text(format_time(approval.created)));
    set("updated", json_text(format_time(approval.updated)));
    set("deadline", json_text(format_time(approval.deadline)));
    set("expiry_told", json_boolean(approval.expiry_told));
    set("archived", time_or_null(approval.archived));
    return dump_json(root.get());
}

std::optional<Approval> approval_from_json(const std::string& id, const std::string& json) {
    const Json root = parse_json(json);
    const auto text = [&root](const char* key) { return std::string(text_of(root.get(), key)); };
    const auto time = [&root](const char* key) { return time_of(root.get(), key); };
    Approval one;
    one.id = id;
    one.workload = text("workload");
    one.uid = text("uid");
    one.targets = text("targets");
    one.identifier = text("identifier");
    one.current = text("current");
    one.wanted = text("wanted");
    one.tag = text("tag");
    one.digest = text("digest");
    one.why = text("why");
    one.needed = static_cast<int>(json_integer_value(json_object_get(root.get(), "needed")));
    const char* name = nullptr;
    json_t* at = nullptr;
    json_object_foreach(json_object_get(root.get(), "voters"), name, at) {
        one.voters[name] =
            parse_time(json_is_string(at) ? json_string_value(at) : "").value_or(Time{});
    }
    one.rejected_by = text("rejected_by");
    one.reason = text("reason");
    one.created = time("created");
    one.updated = time("updated");
    one.deadline = time("deadline");
    one.expiry_told = json_is_true(json_object_get(root.get(), "expiry_told"));
    one.archived = time("archived");
    // One that asks for nothing would be open to everybody.
    const bool whole = !one.uid.empty() && !one.targets.empty() && one.needed > 0;
    return whole ? std::optional(std::move(one)) : std::nullopt;
}

Approvals::Approvals(Parts parts) : parts_(parts) {
    for (const DocumentRow& row : parts_.ledger.documents(kApproval)) {
        if (std::optional<Approval> one = approval_from_json(row.key, row.json)) {
            all_[row.key] = std::move(*one);
        }
    }
    for (const DocumentRow& row : parts_.ledger.documents(kVotes)) {
        const Json json = parse_json(row.json);
        demanded_[row.key] =
            static_cast<int>(json_integer_value(json_object_get(json.get(), "votes")));
    }
}

int Approvals::needed(const Workload& workload, const WorkloadVerdict& verdict) const {
    const auto demanded = demanded_.find(workload.key.to_string());
    return std::max({verdict.settings->approvals.parsed, verdict.vote_because.empty() ? 0 : 1,
                     demanded != demanded_.end() ? demanded->second : 0});
}

const Approval* Approvals::open_one(const std::string& uid,
                                    const std::vector<Target>& targets) const {
    const std::string text = targets_text(targets);
    const auto found = std::ranges::find_if(all_, [&](const auto& item) {
        const Approval& one = item.second;
        return one.archived == Time{} && one.uid == uid && one.targets == text;
    });
    return found != all_.end() ? &found->second : nullptr;
}

std::optional<ClosedGate> Approvals::gate(const Workload& workload,
                                          const WorkloadVerdict& verdict) const {
    const int needed = this->needed(workload, verdict);
    if (needed == 0) {
        return std::nullopt;
    }
    const Approval* known = open_one(workload.uid, verdict.targets);
    if (known == nullptr) {
        return ClosedGate{Gate::awaiting_approval, std::nullopt,
                          "it needs " + votes_text(needed) + ", and nobody was asked yet"};
    }
    Approval one = *known;
    one.needed = needed;  // settings count as they are now
    const std::string order = " " + workload.key.to_string();
    switch (one.state(parts_.clock.now())) {
        case Approval::State::approved:
            return std::nullopt;
        case Approval::State::rejected:
            return ClosedGate{Gate::approval_rejected, std::nullopt,
                              one.rejected_by + " rejected it" +
                                  (one.reason.empty() ? "" : " (" + one.reason + ")") +
                                  "; keelctl reject --undo" + order + " asks anew"};
        case Approval::State::expired:
            return ClosedGate{Gate::approval_rejected, std::nullopt,
                              "too few votes by " + format_time(one.deadline) +
                                  "; keelctl approve" + order + " asks anew, with that vote"};
        case Approval::State::pending:
            break;
    }
    const std::string got = std::to_string(one.voters.size()) + " of " + votes_text(needed) +
                            (one.voters.empty() ? "" : " (" + names_of(one.voters) + ")");
    return ClosedGate{Gate::awaiting_approval, std::nullopt,
                      one.why + ": " + got + "; keelctl approve" + order + ", before " +
                          format_time(one.deadline)};
}

bool Approvals::approved(const std::string& uid, const std::vector<Target>& targets) const {
    const Approval* one = open_one(uid, targets);
    return one != nullptr && one->state(parts_.clock.now()) == Approval::State::approved;
}

void Approvals::ask(const Workload& workload, const WorkloadVerdict& verdict) {
    const std::vector<Target>& targets = verdict.targets.empty() ? verdict.asks : verdict.targets;
    const std::string text = targets_text(targets);
    const int needed = this->needed(workload, verdict);
    sweep([&](const Approval& one) {
        return one.uid == workload.uid && (needed == 0 || one.targets != text);
    });
    if (needed == 0) {
        return;
    }
    const Time now = parts_.clock.now();
    const Approval* known = open_one(workload.uid, targets);
    if (known == nullptr) {
        const Target& first = targets.front();
        Approval one;
        one.id = random_id();
        one.workload = workload.key.to_string();
        one.uid = workload.uid;
        one.targets = text;
        one.identifier = identifier_of(workload.key, targets);
        one.current = tag_before(first);
        one.wanted = first.tag.name;
        one.tag = first.tag.to_string();
        one.digest = first.to.to_string();
        one.created = now;
        known = &(all_[one.id] = one);
        log(EntryKind::planned, "approval-asked", *known, "",
            "approval " + known->id + " is asked for: " + known->identifier);
    }
    Approval& one = all_[known->id];
    const Approval before = one;
    one.needed = needed;
    one.deadline = one.created + verdict.settings->approval_deadline.parsed;
    const Setting& votes = verdict.settings->approvals;
    one.why = !verdict.vote_because.empty() ? verdict.vote_because
              : verdict.settings->approvals.parsed == needed
                  ? "keel.sh/approvals is " + votes.value + " (" + votes.layer + ")"
                  : "somebody demands " + votes_text(needed) + " of it";
    const bool expired = one.state(now) == Approval::State::expired;
    if (expired && !one.expiry_told) {
        log(EntryKind::planned, "approval-expired", one, "",
            "approval " + one.id + " got " + std::to_string(one.voters.size()) + " of " +
                votes_text(needed) + " by its deadline");
    }
    one.expiry_told = expired;
    if (one.needed != before.needed || one.deadline != before.deadline || one.why != before.why ||
        one.expiry_told != before.expiry_told || before.updated == Time{}) {
        one.updated = now;
        save(one);
    }
}

void Approvals::used(const std::string& uid, const std::vector<Target>& targets) {
    if (const Approval* one = open_one(uid, targets)) {
        archive(all_[one->id]);
    }
}

void Approvals::sweep(const std::function<bool(const Approval&)>& over) {
    for (auto& [id, one] : all_) {
        if (one.archived == Time{} && over(one)) {
            archive(one);
        }
    }
}

void Approvals::archive(Approval& one) {
    one.archived = parts_.clock.now();
    one.updated = one.archived;
    save(one);
    std::vector<const Approval*> archived;
    for (const auto& [id, other] : all_) {
        if (other.archived != Time{} && other.id != one.id) {
            archived.push_back(&other);
        }
    }
    if (archived.size() >= kMaxArchived) {
        const std::string oldest = (*std::ranges::min_element(archived, {}, [](const auto* item) {
                                       return item->archived;
                                   }))->id;
        parts_.ledger.erase_document(kApproval, oldest);
        all_.erase(oldest);
    }
}

const Approval* Approvals::find(const std::string& id) const {
    const auto found = all_.find(id);
    return found != all_.end() ? &found->second : nullptr;
}

const Approval* Approvals::named(const std::string& name) const {
    if (const Approval* one = find(name)) {
        return one;
    }
    const Approval* newest = nullptr;
    for (const auto& [id, one] : all_) {
        const auto rank = [](const Approval& item) {
            return std::pair(item.archived == Time{}, item.created);
        };
        if (same_name(one.identifier, name) && (newest == nullptr || rank(*newest) < rank(one))) {
            newest = &one;
        }
    }
    return newest;
}

std::size_t Approvals::pending() const {
    const Time now = parts_.clock.now();
    return static_cast<std::size_t>(std::ranges::count_if(all_, [now](const auto& item) {
        const Approval& one = item.second;
        return one.archived == Time{} && one.state(now) == Approval::State::pending;
    }));
}

// ---- What people say ----

Task<std::vector<OrderResult>> Approvals::order(Order order) {
    std::vector<OrderResult> results;
    results.push_back(obey(order));
    if (results.front().ok && !order.dry_run) {
        // A vote that a crash could take back releases nothing.
        const Expected<void> kept = co_await parts_.ledger.durable();
        if (!kept) {
            results.front() = refuse(order.on, "ledger",
                                     "it counts, but is not on disk yet: " + kept.error().text);
        }
        if (moved_) {
            moved_();
        }
    }
    co_return results;
}

OrderResult Approvals::obey(const Order& order) {
    const Approval* known = named(order.on);
    if (known == nullptr) {
        for (const auto& [id, one] : all_) {
            if (one.archived == Time{} && same_name(one.workload, order.on)) {
                return refuse(order.on, "which-target",
                              "name what is approved: " + one.identifier + ", or " + id);
            }
        }
        return refuse(order.on, "unknown-approval",
                      "nothing of this id or identifier was asked for; keelctl approvals lists "
                      "what is");
    }
    Approval& one = all_[known->id];
    const Time now = parts_.clock.now();
    const json_t* args = order.args.get();
    if (json_is_true(json_object_get(args, "undo"))) {
        const std::string identifier = one.identifier;
        if (!order.dry_run) {
            log(EntryKind::ordered, "approval-deleted", one, order.author,
                "approval " + one.id + " (" + std::string(to_string(one.state(now))) +
                    "): " + identifier + (order.reason.empty() ? "" : " (" + order.reason + ")"));
            parts_.ledger.erase_document(kApproval, one.id);
            all_.erase(one.id);
        }
        return OrderResult{identifier, true, "deleted", "where it is still due it is asked anew"};
    }
    if (json_is_true(json_object_get(args, "archive"))) {
        if (one.archived == Time{} && one.state(now) == Approval::State::pending) {
            return refuse(one.identifier, "pending", "it waits for votes: approve or reject it");
        }
        if (!order.dry_run && one.archived == Time{}) {
            log(EntryKind::ordered, "approval-archived", one, order.author, "approval " + one.id);
            archive(one);
        }
        return OrderResult{one.identifier, true, "archived", "it is put away"};
    }
    if (one.archived != Time{}) {
        return refuse(one.identifier, "archived",
                      "nothing waits for it any more; a newer target is asked for by itself");
    }
    return vote(one, order, order.action == "approve");
}

OrderResult Approvals::vote(Approval& one, const Order& order, bool approve) {
    const Time now = parts_.clock.now();
    const Approval::State state = one.state(now);
    if (state == Approval::State::rejected) {
        return refuse(one.identifier, "rejected",
                      one.rejected_by + " rejected it; keelctl reject --undo asks anew");
    }
    if (approve && state != Approval::State::expired && one.voters.contains(order.author)) {
        return refuse(one.identifier, "voted", order.author + " has voted already");
    }
    Approval next = one;
    if (approve && state == Approval::State::expired) {
        const Millis span = one.deadline - one.created;
        next.voters.clear();
        next.created = now;
        next.deadline = now + span;
        next.expiry_told = false;
    }
    if (approve) {
        next.voters[order.author] = now;
    } else {
        next.rejected_by = order.author;
    }
    next.reason = order.reason;
    next.updated = now;
    const std::string got = std::to_string(next.voters.size()) + " of " + votes_text(next.needed);
    const bool enough = next.state(now) == Approval::State::approved;
    const std::string text = !approve ? "it does not go there"
                             : enough ? got + ": it goes on, as other gates allow"
                                      : got + ": it waits for more";
    if (!order.dry_run) {
        one = std::move(next);
        save(one);
        log(EntryKind::ordered, approve ? "approved" : "rejected", one, order.author,
            "approval " + one.id + ": " + one.identifier +
                (order.reason.empty() ? "" : " (" + order.reason + ")") + "; " + got);
    }
    return OrderResult{one.identifier, true, approve ? "approved" : "rejected", text};
}

Task<std::vector<OrderResult>> Approvals::demand(Order order) {
    std::vector<OrderResult> results;
    const Expected<WorkloadKey> key = WorkloadKey::parse(order.on);
    const json_t* votes = json_object_get(order.args.get(), "votes");
    const auto count = static_cast<int>(json_integer_value(votes));
    if (!key) {
        results.push_back(refuse(order.on, "bad-action", "identifier: " + key.error().text));
    } else if (!json_is_integer(votes) || json_integer_value(votes) < 0 ||
               json_integer_value(votes) > kMostVotes) {
        results.push_back(
            refuse(order.on, "bad-action", "votesRequired: expected a number from 0 to 100"));
    } else {
        const std::string name = key->to_string();
        if (count == 0) {
            demanded_.erase(name);
            parts_.ledger.erase_document(kVotes, name);
        } else {
            demanded_[name] = count;
            const Json json(json_pack("{s:i,s:s}", "votes", count, "author", order.author.c_str()));
            parts_.ledger.put(DocumentRow{kVotes, name, dump_json(json.get())});
        }
        Approval about;
        about.workload = name;
        log(EntryKind::ordered, "votes-demanded", about, order.author,
            votes_text(count) + " at least, whatever its settings say");
        results.push_back(OrderResult{name, true, "demanded", votes_text(count) + " at least"});
        const Expected<void> kept = co_await parts_.ledger.durable();
        if (!kept) {
            results.front() =
                refuse(name, "ledger", "it counts, but is not on disk yet: " + kept.error().text);
        }
        if (moved_) {
            moved_();
        }
    }
    co_return results;
}

void Approvals::save(const Approval& one) {
    parts_.ledger.put(DocumentRow{kApproval, one.id, approval_to_json(one)});
}

void Approvals::log(EntryKind kind, const std::string& code, const Approval& about,
                    const std::string& cause, const std::string& text) {
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = kind;
    entry.code = code;
    entry.workload = about.workload;
    entry.uid = about.uid;
    entry.tag = about.tag;
    entry.to = about.digest;
    entry.cause = cause;
    entry.text = text;
    parts_.ledger.append(std::move(entry));
}

}  // namespace keel
