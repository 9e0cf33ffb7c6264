#include "keeld/policy/judge.h"

#include <algorithm>

namespace keel {
namespace {

std::string brief(const std::string& digest) {
    const std::size_t colon = digest.find(':');
    return colon == std::string::npos ? digest : digest.substr(0, colon + 13);
}

// How what a container's pods run relates to the digest that its tag answers.
struct Comparison {
    enum class Result {
        same,
        same_content,
        moved,
        unknown,
        nothing_runs
    } result = Result::nothing_runs;
    std::string from;     // the digest that most of the differing pods run
    bool newer = false;   // what runs was first seen after the target
    std::string missing;  // a platform that pods run on and that the target is not made for
};

class Judge {
  public:
    Judge(const CatalogueEntry& entry, const Knowledge& knowledge)
        : entry_(entry), workload_(entry.object), knowledge_(knowledge) {}

    WorkloadVerdict run() {
        const Namespace* ns = knowledge_.catalogue.find_namespace(workload_.key.ns);
        result_.standing = standing_of(workload_, ns, knowledge_.config);
        result_.settings = settings_of(workload_, ns, knowledge_.config);
        for (std::size_t i = 0; i < workload_.containers.size(); ++i) {
            result_.containers.push_back(judge_container(i));
        }
        block_siblings();
        conclude();
        return std::move(result_);
    }

  private:
    ContainerVerdict say(ContainerVerdict verdict, Reason reason, std::string sentence) const {
        verdict.reason = reason;
        verdict.verdict = verdict_of(reason);
        verdict.sentence = std::move(sentence);
        return verdict;
    }

    ContainerVerdict judge_container(std::size_t at) {
        const Container& container = workload_.containers[at];
        const Expected<Reference>& reference = entry_.references[at];
        ContainerVerdict verdict;
        if (reference) {
            verdict.tag = reference->tag();
        }
        const Standing& standing = result_.standing;
        if (!standing.ours) {
            return say(verdict, standing.reason, standing.sentence);
        }
        if (!reference) {
            return say(verdict, Reason::reference_invalid, reference.error().text);
        }
        if (!verdict.tag) {
            return say(verdict, Reason::no_tag,
                       container.image + " names a digest and no tag: nothing can move");
        }
        if (const WorkloadSettings::Fault* fault = result_.settings.blocking()) {
            return say(verdict, Reason::policy_invalid, fault->text);
        }
        if (auto blocked = block_by_kind(verdict, *reference)) {
            return *blocked;
        }
        if (reference->digest) {
            return say(
                verdict, Reason::pinned,
                container.image + " is pinned to a digest; remove the digest to follow the tag");
        }
        return judge_digest(std::move(verdict), container);
    }

    // S2: what must not be restarted by default, whatever its policy says.
    std::optional<ContainerVerdict> block_by_kind(const ContainerVerdict& verdict,
                                                  const Reference& reference) const {
        const Namespace* ns = knowledge_.catalogue.find_namespace(workload_.key.ns);
        const auto allowed = [&](const char* key) {
            return effective_setting(workload_, ns, key, "").value == "allow";
        };
        const auto& images = knowledge_.config.stateful_images;
        const auto database =
            std::ranges::find_if(images, [&reference](const std::string& pattern) {
                return matches_image(pattern, reference.registry, reference.repository);
            });
        const bool set = workload_.key.kind == WorkloadKind::stateful_set;
        if ((set || database != images.end()) && !allowed("keel.sh/stateful")) {
            const std::string why =
                set ? "a StatefulSet" : "a database (stateful.images: " + *database + ")";
            ContainerVerdict blocked = verdict;
            blocked.would_change =
                true;  // a restart reaches the whole pod, whatever this container would pull
            return say(blocked, Reason::stateful,
                       "it is " + why + "; the annotation keel.sh/stateful: allow releases it");
        }
        if (workload_.controller && !allowed("keel.sh/operator-owned")) {
            return say(verdict, Reason::operator_owned,
                       "it belongs to " + workload_.controller->kind + "/" +
                           workload_.controller->name +
                           ", which would set it back; the annotation keel.sh/operator-owned: "
                           "allow releases it");
        }
        return std::nullopt;
    }

    ContainerVerdict judge_digest(ContainerVerdict verdict, const Container& container) {
        const Tag& tag = *verdict.tag;
        const TagInfo* info = knowledge_.tags.find(tag);
        const bool pulls = container.pull == PullPolicy::always;
        if (info == nullptr || info->pulled().empty()) {
            verdict.would_change = pulls;
            const std::string why = info != nullptr && !info->failure.empty()
                                        ? info->failure
                                        : "it has not been asked yet";
            return say(verdict, Reason::no_answer,
                       "nothing is known of " + tag.to_string() + ": " + why);
        }
        const Digest& wanted = info->pulled();
        if (workload_.key.kind == WorkloadKind::cron_job) {
            return pulls ? say(verdict, Reason::at_next_run,
                               "its next run pulls " + brief(wanted.to_string()) + held_note(*info))
                         : say(verdict, Reason::restart_cannot_pull,
                               "its pull policy is not Always: a run on a node that has the tag "
                               "pulls nothing");
        }
        if (container.volume) {
            return say(verdict, Reason::at_next_start,
                       "pods do not tell what they have of an image volume; one that starts " +
                           std::string(pulls ? "pulls " : "and finds no copy on its node pulls ") +
                           brief(wanted.to_string()) + held_note(*info));
        }
        if (!entry_.running.known) {
            verdict.would_change = pulls;
            return say(verdict, Reason::no_baseline, "its pods have not been read yet");
        }
        const Comparison found = compare(container, tag, wanted);
        using Result = Comparison::Result;
        if (found.result == Result::nothing_runs) {
            return workload_.replicas == 0
                       ? say(verdict, Reason::scaled_to_zero,
                             "it has no replicas: the next start pulls what is newest then")
                       : say(verdict, Reason::no_baseline,
                             "none of its pods has started this container yet");
        }
        // While the tag is held, what it answers upstream reaches no pull.
        if (!info->held && !info->pending.empty()) {
            verdict.would_change = pulls;
            return say(verdict, Reason::revert_unconfirmed, reverting(*info));
        }
        const bool arrived = found.result == Result::same || found.result == Result::same_content;
        if (info->held && !info->held->everywhere && !arrived) {
            verdict.would_change = pulls;
            return say(verdict, Reason::held_at_cache,
                       "the caches do not hold " + tag.to_string() +
                           " alike, so what a pull gets depends on its way: " + info->held->caches);
        }
        if (!found.missing.empty()) {
            verdict.would_change = pulls;
            return say(verdict, Reason::target_not_pullable,
                       brief(wanted.to_string()) + " holds nothing for " + found.missing +
                           ", where its pods run");
        }
        if (found.result == Result::unknown) {
            verdict.would_change = pulls;
            if (const std::string* why = knowledge_.fetch_failure(wanted)) {
                return say(verdict, Reason::target_not_pullable,
                           brief(wanted.to_string()) + " cannot be fetched: " + *why);
            }
            return say(verdict, Reason::no_answer,
                       "what " + brief(wanted.to_string()) + " holds has not been read yet");
        }
        if (arrived) {
            return judge_arrived(std::move(verdict), container, *info, found.result);
        }
        verdict.would_change = pulls;
        verdict.target = Target{container.name, tag, found.from, wanted};
        verdict.revert = found.newer;
        return judge_move(std::move(verdict), container, *info);
    }

    // Its pods run what a pull gets.
    ContainerVerdict judge_arrived(ContainerVerdict verdict, const Container& container,
                                   const TagInfo& info, Comparison::Result result) const {
        const std::string runs = brief(info.pulled().to_string());
        // A bad build that replaced every pod is what the tag answers, and still not well.
        const Target here{container.name, info.tag, "", info.pulled()};
        if (const std::string* why = knowledge_.rejected(workload_.uid, here)) {
            return say(verdict, Reason::target_rejected,
                       "it runs " + runs + ", which failed here: " + *why);
        }
        const bool same = result == Comparison::Result::same;
        if (info.held) {
            return say(verdict, Reason::held,
                       (same ? "it runs " + runs
                             : "it runs the same content for this platform as " + runs) +
                           held_note(info));
        }
        if (same) {
            return say(verdict, Reason::up_to_date,
                       "it runs " + runs + ", which is what the tag answers" + tag_note());
        }
        return say(verdict, Reason::same_content,
                   "the tag answers " + runs +
                       ", which holds the same content for this platform as what runs" +
                       tag_note());
    }

    ContainerVerdict judge_move(ContainerVerdict verdict, const Container& container,
                                const TagInfo& info) const {
        const std::string move = brief(verdict.target->from) + " → " +
                                 brief(verdict.target->to.to_string()) + held_note(info);
        const Reverts reverts = knowledge_.config.defaults.reverts;
        if (const std::string* why = knowledge_.rejected(workload_.uid, *verdict.target)) {
            return say(verdict, Reason::target_rejected, move + " failed here before: " + *why);
        }
        if (!info.held && info.without_history()) {
            return say(verdict, Reason::revert_unconfirmed,
                       move +
                           ": this is the first answer ever seen, so nothing tells which is newer; "
                           "a second source "
                           "(registries." +
                           info.tag.registry + ".upstream) or a change of the tag settles it");
        }
        if (verdict.revert && reverts == Reverts::never) {
            return say(verdict, Reason::revert_refused,
                       move + " goes back to an older digest, and reverts is never");
        }
        if (const std::string* why = knowledge_.stalled(workload_.uid, *verdict.target)) {
            return say(verdict, Reason::rollout_stalled,
                       move +
                           " was rolled out already and some pods do not run it; nothing is "
                           "written twice: " +
                           *why);
        }
        if (container.pull != PullPolicy::always) {
            return say(verdict, Reason::restart_cannot_pull,
                       move +
                           ": its pull policy is not Always, so a restart would run the old "
                           "content again");
        }
        if (workload_.on_delete) {
            return say(verdict, Reason::on_delete, move + ": its update strategy is OnDelete");
        }
        if (workload_.partitioned) {
            return say(verdict, Reason::partitioned, move + ": its rolling update has a partition");
        }
        if (workload_.paused) {
            return say(verdict, Reason::deployment_paused, move + ": it is paused");
        }
        if (workload_.replicas == 0) {
            return say(verdict, Reason::scaled_to_zero, move + ": it has no replicas");
        }
        return say(verdict, Reason::digest_moved,
                   (info.held ? "a pull of " + info.tag.to_string() + " gets another digest: "
                              : "the digest of " + info.tag.to_string() + " moved: ") +
                       move + tag_note());
    }

    static std::string reverting(const TagInfo& info) {
        return "the tag went back to " + brief(info.pending.to_string()) +
               ", seen before; a cache answers so when its upstream fails, and no second source "
               "has confirmed it";
    }

    // ", which the tag is held at by alice until … (reason); the newest there is: sha256:…"
    static std::string held_note(const TagInfo& info) {
        if (!info.held) {
            return "";
        }
        const Held& held = *info.held;
        std::string text = ", at which the tag is held by " + held.author;
        text += held.until == Time{} ? "" : " until " + format_time(held.until);
        text += " (" + held.reason + ")";
        if (info.current == held.digest) {
            return text + "; nothing newer is known";
        }
        return text + (info.current.empty() ? "; what is newest is not known"
                                            : "; newest: " + brief(info.current.to_string()));
    }

    // Tag policies follow the digest in this version; the tag itself stays.
    std::string tag_note() const {
        return result_.settings.policy.parsed.kind() != Policy::Kind::force
                   ? "; this version does not choose newer tags"
                   : "";
    }

    Comparison compare(const Container& container, const Tag& tag, const Digest& target) {
        Comparison found;
        const Content* content = knowledge_.content(target);
        const TagInfo* info = knowledge_.tags.find(tag);
        int most = 0;
        bool unknown = false;
        bool by_content = false;
        bool any = false;
        for (const RunningImage& image : entry_.running.images) {
            if (image.container != container.name || image.init != container.init ||
                image.digest.empty()) {
                continue;
            }
            any = true;
            const std::optional<Digest> reported = Digest::parse(image.digest);
            if (reported && *reported == target) {
                continue;
            }
            const SameContent same =
                reported ? compare_one(tag, *reported, target, content, image.platform)
                         : SameContent::different;
            if (content != nullptr && !content->platforms.empty() &&
                content->entries_for(image.platform).empty()) {
                found.missing = image.platform;
            }
            unknown = unknown || same == SameContent::unknown;
            by_content = by_content || same == SameContent::same;
            if (same == SameContent::different && image.pods > most) {
                most = image.pods;
                found.from = image.digest;
                found.newer = is_newer(*info, reported, target);
            }
        }
        using Result = Comparison::Result;
        found.result = !any         ? Result::nothing_runs
                       : most > 0   ? Result::moved
                       : unknown    ? Result::unknown
                       : by_content ? Result::same_content
                                    : Result::same;
        return found;
    }

    // Whether what runs is newer than the target, as far as is known: a held digest that the ledger
    // has never met, or of a tag without a history, counts as going back.
    static bool is_newer(const TagInfo& info, const std::optional<Digest>& reported,
                         const Digest& target) {
        const auto runs = reported ? info.seen.find(*reported) : info.seen.end();
        const auto goal = info.seen.find(target);
        if (info.held && (goal == info.seen.end() || info.without_history())) {
            return true;
        }
        return runs != info.seen.end() && goal != info.seen.end() &&
               runs->second.first > goal->second.first;
    }

    SameContent compare_one(const Tag& tag, const Digest& reported, const Digest& target,
                            const Content* content, const std::string& platform) {
        const Content* known = knowledge_.content(reported);
        const bool lost = known == nullptr && knowledge_.fetch_failure(reported) != nullptr;
        if (known == nullptr && !lost) {
            result_.wants.push_back({tag, reported});
        }
        if (content == nullptr) {
            result_.wants.push_back({tag, target});
            return SameContent::unknown;
        }
        const SameContent same = compare_content(reported, known, *content, platform);
        // What cannot be fetched any more cannot be compared; the digest differs, and that is what
        // moved.
        return same == SameContent::unknown && (lost || known != nullptr) ? SameContent::different
                                                                          : same;
    }

    // A restart changes every container that pulls: it waits for all of them.
    void block_siblings() {
        const auto blocking =
            std::ranges::find_if(result_.containers, [](const ContainerVerdict& one) {
                return one.verdict == Verdict::blocked && one.would_change;
            });
        if (blocking == result_.containers.end()) {
            return;
        }
        const std::size_t at = static_cast<std::size_t>(blocking - result_.containers.begin());
        const std::string name = workload_.containers[at].name;
        const std::string why(to_string(blocking->reason));
        for (ContainerVerdict& one : result_.containers) {
            if (one.verdict == Verdict::roll) {
                one = say(one, Reason::sibling_blocked,
                          one.sentence + "; but a restart would also change container " + name +
                              ", which is blocked: " + why);
            }
        }
    }

    void conclude() {
        const auto rank = [](const ContainerVerdict& one) {
            static constexpr int kOrder[] = {1, 2, 0, 3};  // blocked, roll, current, ignore
            return std::pair(kOrder[static_cast<int>(one.verdict)], one.reason);
        };
        const auto first = std::ranges::min_element(result_.containers, {}, rank);
        if (first == result_.containers.end()) {
            result_.sentence = "it has no containers";
            return;
        }
        result_.verdict = first->verdict;
        result_.reason = first->reason;
        const std::size_t at = static_cast<std::size_t>(first - result_.containers.begin());
        result_.sentence = "container " + workload_.containers[at].name + ": " + first->sentence;
        for (const ContainerVerdict& one : result_.containers) {
            if (one.verdict == Verdict::roll) {
                result_.targets.push_back(*one.target);
                result_.needs_approval =
                    result_.needs_approval ||
                    (one.revert && knowledge_.config.defaults.reverts == Reverts::ask);
            }
        }
    }

    const CatalogueEntry& entry_;
    const Workload& workload_;
    const Knowledge& knowledge_;
    WorkloadVerdict result_;
};

}  // namespace

WorkloadVerdict judge(const CatalogueEntry& entry, const Knowledge& knowledge) {
    return Judge(entry, knowledge).run();
}

}  // namespace keel
