// What is told of holds: the list, and what is wrong with them.
#include "keeld/catalogue/holds.h"

#include <utility>

namespace keel {
namespace {

constexpr Millis kAnnounced = std::chrono::hours(24);

std::string looked_at_again(const Holds::AtCache& there) {
    return there.again == Time{} ? "looked at again soon"
                                 : "looked at again " + format_time(there.again);
}

}  // namespace

std::vector<Holds::View> Holds::all() const {
    std::map<Tag, std::map<std::string, View>> foreign;  // by owner and digest
    std::vector<View> views;
    for (const auto& [tag, row] : rows_) {
        View view;
        view.hold = row;
        view.own = true;
        for (const auto& [name, cache] : caches_) {
            AtCache there = at_cache(cache, tag);
            if (there.listed && there.state != "foreign") {
                view.owner = there.listed->owner;
            }
            if (!there.state.empty() && (row.lifted == Time{} || there.state != "foreign")) {
                view.caches.push_back(std::move(there));
            }
        }
        if (row.lifted == Time{} || !view.caches.empty()) {
            views.push_back(std::move(view));
        }
    }
    for (const auto& [name, cache] : caches_) {
        for (const auto& [tag, hold] : cache.holds) {
            if (ours(cache, hold)) {
                continue;
            }
            View& view = foreign[tag][hold.owner + " " + hold.digest.to_string()];
            view.hold = row_of(hold);
            view.owner = hold.owner;
            view.caches.push_back(at_cache(cache, tag));
        }
    }
    for (auto& [tag, owners] : foreign) {
        for (auto& [owner, view] : owners) {
            views.push_back(std::move(view));
        }
    }
    return views;
}

std::vector<Holds::Trouble> Holds::problems() const {
    std::vector<Trouble> found;
    const Time now = parts_.clock.now();
    for (const View& view : all()) {
        const HoldRow& row = view.hold;
        const std::string what =
            row.tag + " at " + brief_digest(row.digest) + " (by " + row.author + ")";
        for (const AtCache& there : view.caches) {
            const std::string where = what + ": " + there.cache + ": ";
            if (view.own && there.state != "held") {
                const bool lifted = row.lifted != Time{};
                found.push_back({lifted ? "hold-not-lifted" : "hold-not-set", where + there.text,
                                 there.state == "incomplete"
                                     ? looked_at_again(there) + "; keelctl hold --force sets it as "
                                                                "it is"
                                 : there.state == "foreign" ? "only its owner changes that hold"
                                                            : "tried again every 30 s"});
            }
            const Tag tag = there.listed ? there.listed->tag : Tag{};
            const Cache& cache = caches_.at(there.cache);
            if (const auto counted = cache.counted.find(tag);
                counted != cache.counted.end() && counted->second.trouble == "unfetchable") {
                found.push_back({"hold-unfetchable",
                                 where + "a pull of the held tag was not answered with a manifest",
                                 "bring the digest back upstream, or hold another; clears with the "
                                 "next answer"});
            } else if (counted != cache.counted.end() && counted->second.trouble == "ineffective") {
                found.push_back({"hold-ineffective",
                                 where + "a pull of the held tag got another digest",
                                 "this cache's configuration goes round the hold (proxy_pass with "
                                 "$request_uri, or manifests cached by their tag)"});
            }
            const auto check = cache.checks.find(tag);
            if (view.own && there.state == "held" && check != cache.checks.end() &&
                !check->second.failure.empty()) {
                found.push_back({"hold-incomplete", where + check->second.failure,
                                 looked_at_again(there) + "; nodes that have nothing of it cannot "
                                                          "pull it"});
            }
        }
        const bool long_one = row.until != Time{} && row.until - row.since > kAnnounced;
        if (view.own && row.lifted == Time{} && long_one && row.until - now <= kAnnounced) {
            found.push_back({"hold-expiring", what + " ends at " + format_time(row.until),
                             "set it again to keep it; after that the tag is followed"});
        }
    }
    return found;
}

}  // namespace keel
