#include "keeld/policy/judge.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/glob.h"

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
        result_.settings = shared_settings_of(workload_, ns, knowledge_.config);
        result_.standing = standing_of(workload_, ns, knowledge_.config, knowledge_.phases,
                                       result_.settings->policy);
        result_.containers.reserve(workload_.containers.size());
        for (std::size_t i = 0; i < workload_.containers.size(); ++i) {
            result_.containers.push_back(judge_container(i));
        }
        cross_streams();
        move_together();
        block_siblings();
        conclude();
        return std::move(result_);
    }

  private:
    // Takes what `verdict` holds.
    static ContainerVerdict say(ContainerVerdict& verdict, Reason reason, std::string sentence) {
        verdict.reason = reason;
        verdict.verdict = verdict_of(reason);
        verdict.sentence = std::move(sentence);
        return std::move(verdict);
    }
    // Leaves it.
    static ContainerVerdict say(const ContainerVerdict& verdict, Reason reason,
                                std::string sentence) {
        ContainerVerdict copy = verdict;
        return say(copy, reason, std::move(sentence));
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
        if (const WorkloadSettings::Fault* fault = result_.settings->blocking()) {
            return say(verdict, Reason::policy_invalid, fault->text);
        }
        if (!reference) {
            return say(verdict, Reason::reference_invalid, reference.error().text);
        }
        if (!verdict.tag) {
            return say(verdict, Reason::no_tag,
                       container.image.str() + " names a digest and no tag: nothing can move");
        }
        if (auto blocked = block_by_kind(verdict, *reference)) {
            return *blocked;
        }
        if (!result_.settings->monitors(container.own_name())) {
            return say(verdict, Reason::not_monitored,
                       "keel.sh/monitorContainers (" + result_.settings->monitor_containers.layer +
                           ") leaves it out: " + result_.settings->monitor_containers.value);
        }
        const Freedom freedom = freedom_of(container, *reference);
        if (reference->digest && !freedom.digest && !freedom.tag) {
            return say(verdict, Reason::pinned,
                       container.image.str() +
                           " is pinned to a digest; remove the digest to follow the tag");
        }
        ContainerVerdict by_digest =
            judge_digest(std::move(verdict), container, *reference, freedom);
        return judge_tag(std::move(by_digest), container, *reference, freedom);
    }

    // What of a reference may be written. A digest in it is somebody's decision, unless we wrote it
    // or the workload itself says otherwise (policy.md).
    struct Freedom {
        bool digest = true;
        bool tag = false;
        const char* why_not_tag = "";
    };
    Freedom freedom_of(const Container& container, const Reference& reference) const {
        const WorkloadSettings& settings = *result_.settings;
        const Policy::Kind kind = settings.policy.parsed.kind();
        const bool own = settings.policy.is_own();
        const bool force = kind == Policy::Kind::force;
        Freedom freedom;
        freedom.tag = !force;
        if (reference.digest) {
            const bool ours =
                knowledge_.wrote(workload_.uid, container.name, container.image.str());
            freedom.digest = ours || (force && own);
            freedom.tag = !force && (ours || own);
        }
        if (freedom.tag && container.volume && !settings.image_volumes.parsed) {
            freedom.tag = false;
            freedom.why_not_tag =
                "the tag of an image volume changes only with keel.sh/imageVolumes: \"true\"";
        }
        if (freedom.tag && container.init && !settings.init_containers.parsed) {
            freedom.tag = false;
            freedom.why_not_tag =
                "the tag of an init container changes only with keel.sh/initContainers: \"true\"";
        }
        return freedom;
    }

    bool allowed(const char* key) const {
        const Namespace* ns = knowledge_.catalogue.find_namespace(workload_.key.ns);
        return effective_setting(workload_, ns, knowledge_.config, key, "").value == "allow";
    }

    // O1: who else writes the image of the container, and would set it back; empty: nobody known.
    std::string second_owner(const Container& container) const {
        const auto owner = std::ranges::find_if(container.image_managers, [this](const auto& one) {
            return matches_any(knowledge_.config.image_owners, one);
        });
        const bool found = owner != container.image_managers.end();
        if ((!found && workload_.managed_by.empty()) || allowed("keel.sh/second-owner")) {
            return "";
        }
        return (found
                    ? "the field manager " + owner->str() + " writes its image, too (managedFields)"
                    : "the label app.kubernetes.io/managed-by says that " + workload_.managed_by +
                          " writes it, too") +
               ", and would set it back; the annotation keel.sh/second-owner: allow releases it";
    }

    // S2: what must not be restarted by default, whatever its policy says.
    std::optional<ContainerVerdict> block_by_kind(const ContainerVerdict& verdict,
                                                  const Reference& reference) const {
        const auto& images = knowledge_.config.stateful_images;
        const std::string image = reference.registry + "/" + reference.repository;
        const auto database = std::ranges::find_if(
            images, [&image](const std::string& one) { return matches_image(one, image); });
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

    ContainerVerdict judge_digest(ContainerVerdict verdict, const Container& container,
                                  const Reference& reference, const Freedom& freedom) {
        const Tag& tag = *verdict.tag;
        const TagInfo* info = knowledge_.tags.find(tag);
        const bool pulls = container.pull == PullPolicy::always && !reference.digest;
        if (info == nullptr || info->pulled().empty()) {
            if (by_webhooks_alone()) {
                return say(verdict, Reason::awaiting_webhook,
                           "nothing is known of " + tag.to_string() + ", and " + push_note(tag));
            }
            verdict.would_change = pulls;
            const std::string why = info != nullptr && !info->failure.empty()
                                        ? info->failure
                                        : "it has not been asked yet";
            return say(verdict, Reason::no_answer,
                       "nothing is known of " + tag.to_string() + ": " + why);
        }
        const Digest& wanted = info->pulled();
        if (reference.digest && *reference.digest == wanted) {
            return say(
                verdict, Reason::up_to_date,
                "it is pinned to " + brief(wanted.to_string()) + ", which is what the tag answers");
        }
        if (workload_.key.kind == WorkloadKind::cron_job && !reference.digest) {
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
            if (const Error* why = knowledge_.fetch_failure(wanted)) {
                return say(verdict, Reason::target_not_pullable,
                           brief(wanted.to_string()) + " cannot be fetched: " + why->text);
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
        if (reference.digest) {
            const std::optional<std::string> image = reference.with_tag(tag.name, wanted);
            if (!freedom.digest || !image) {
                return say(verdict, Reason::pinned,
                           "the tag answers " + brief(wanted.to_string()) + ", and " +
                               container.image.str() +
                               " is pinned; only a newer tag would replace the digest");
            }
            verdict.target->image = *image;
            verdict.target->from_image = container.image;
            if (const std::string owner = second_owner(container); !owner.empty()) {
                return say(verdict, Reason::second_owner,
                           "the tag answers " + brief(wanted.to_string()) + ", but " + owner);
            }
        }
        return judge_move(std::move(verdict), container, *info);
    }

    // Its pods run what a pull gets.
    ContainerVerdict judge_arrived(ContainerVerdict verdict, const Container& container,
                                   const TagInfo& info, Comparison::Result result) const {
        const std::string runs = brief(info.pulled().to_string());
        // A bad build that replaced every pod is what the tag answers, and still not well.
        const Target here{container.name, info.tag, "", info.pulled()};
        if (const std::string* why = knowledge_.rejected(workload_.uid, here)) {
            return rejected(std::move(verdict), container,
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
                       "it runs " + runs + ", which is what the tag answers");
        }
        return say(verdict, Reason::same_content,
                   "the tag answers " + runs +
                       ", which holds the same content for this platform as what runs");
    }

    // S1: the template is to name again what ran before; without a change of it a hold is what
    // brings a pull there, and what is pulled then is judged as ever.
    ContainerVerdict rejected(ContainerVerdict verdict, const Container& container,
                              const std::string& sentence) const {
        const Target* back = knowledge_.way_back(workload_.uid, container.name);
        if (back == nullptr || back->image.empty() || back->from_image != container.image) {
            return say(verdict, Reason::target_rejected, sentence);
        }
        verdict.target = *back;
        verdict.would_change = false;
        const std::string move = sentence + "; it goes back to " + back->image;
        const TagInfo* info = knowledge_.tags.find(back->tag);
        if (info == nullptr || info->pulled() != back->to) {
            return say(verdict, Reason::target_not_pullable,
                       move + ", but that is not " + brief(back->to.to_string()) + " any more");
        }
        if (auto blocked = block_by_state(verdict, move)) {
            return *blocked;
        }
        return say(verdict, Reason::goes_back, move);
    }

    ContainerVerdict judge_move(ContainerVerdict verdict, const Container& container,
                                const TagInfo& info) {
        const std::string move = brief(verdict.target->from) + " → " +
                                 brief(verdict.target->to.to_string()) + held_note(info);
        const Reverts reverts = knowledge_.config.defaults.reverts;
        if (const std::string* why = knowledge_.rejected(workload_.uid, *verdict.target)) {
            return rejected(std::move(verdict), container, move + " failed here before: " + *why);
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
        // Another reference is pulled under every policy but Never.
        if (verdict.target->image.empty() ? container.pull != PullPolicy::always
                                          : container.pull == PullPolicy::never) {
            return say(verdict, Reason::restart_cannot_pull,
                       move +
                           ": its pull policy is not Always, so a restart would run the old "
                           "content again");
        }
        if (const auto young = too_young(info, verdict.target->to)) {
            return say(verdict, Reason::too_young, move + ": " + *young);
        }
        if (auto blocked = block_for_now(verdict, move)) {
            return *blocked;
        }
        return say(verdict, Reason::digest_moved,
                   (info.held ? "a pull of " + info.tag.to_string() + " gets another digest: "
                              : "the digest of " + info.tag.to_string() + " moved: ") +
                       move);
    }

    // Why the digest is too new to be rolled, by our own first sight of it at this tag: each digest
    // ages on its own, and one that came back is as old as it was. One that a person holds the tag
    // at is not kept waiting.
    std::optional<std::string> too_young(const TagInfo& info, const Digest& digest) {
        const Parsed<Millis>& least = result_.settings->min_age;
        const auto seen = info.seen.find(digest);
        if (least.parsed == Millis{0} || info.held || seen == info.seen.end()) {
            return std::nullopt;
        }
        const Time old_enough = seen->second.first + least.parsed;
        if (old_enough <= knowledge_.now) {
            return std::nullopt;
        }
        result_.recheck = std::min(result_.recheck.value_or(old_enough), old_enough);
        return brief(digest.to_string()) + " was first seen " + format_time(seen->second.first) +
               " and is old enough " + format_time(old_enough) + " (keel.sh/minAge " + least.value +
               ", " + least.layer + ")";
    }

    std::optional<ContainerVerdict> block_for_now(const ContainerVerdict& verdict,
                                                  const std::string& move) const {
        if (by_webhooks_alone() && !is_released(*verdict.target)) {
            return say(verdict, Reason::awaiting_webhook,
                       move + ": " + push_note(verdict.target->tag));
        }
        return block_by_state(verdict, move);
    }

    // What keeps every move of this workload from being made.
    std::optional<ContainerVerdict> block_by_state(const ContainerVerdict& verdict,
                                                   const std::string& move) const {
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
        return std::nullopt;
    }

    bool by_webhooks_alone() const { return result_.settings->trigger.parsed == Trigger::push; }
    // A hold is somebody's word, too.
    bool is_released(const Target& target) const {
        const TagInfo* info = knowledge_.tags.find(target.tag);
        const Digest* released = knowledge_.released(target.tag);
        return (info != nullptr && info->held) || (released != nullptr && *released == target.to);
    }
    std::string push_note(const Tag& tag) const {
        return "keel.sh/trigger is \"" + result_.settings->trigger.value + "\" (" +
               result_.settings->trigger.layer +
               "), so that webhooks alone move it, and none has named " + tag.to_string() +
               " since";
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

    // --- newer tags ---

    using Want = WorkloadVerdict::Want;
    void want(Want::What what, const Tag& tag, const Digest& digest = {}) {
        Want one{what, tag, digest};
        if (std::ranges::find(result_.wants, one) == result_.wants.end()) {
            result_.wants.push_back(std::move(one));
        }
    }

    // What the list of tags says, beside what the digest of the current one does. A newer tag wins;
    // where it is not to be had for its own sake, the digest is followed.
    ContainerVerdict judge_tag(ContainerVerdict by_digest, const Container& container,
                               const Reference& reference, const Freedom& freedom) {
        static const Listing kNone;
        const Tag tag = *by_digest.tag;
        const Listing* listing = knowledge_.listing(tag);
        const bool listed = listing != nullptr && listing->known();
        const auto choose = [&](const std::vector<std::string>& passed_over) -> const Choice& {
            return knowledge_.choices.choose(listed ? *listing : kNone, tag, *result_.settings,
                                             knowledge_.first_seen, passed_over);
        };
        const Choice& choice = choose({});
        by_digest.newest = choice.beyond.empty() ? choice.selected : choice.beyond;
        by_digest.allowed = choice.selected;
        if (!listed) {
            return without_list(std::move(by_digest), listing, choice);
        }
        if (choice.reason == Reason::policy_invalid) {
            return say(by_digest, choice.reason, choice.sentence);
        }
        if (choice.reason != Reason::newer_tag) {
            ContainerVerdict stays =
                beside_digest(std::move(by_digest), choice.reason, choice.sentence);
            if (stays.reason == Reason::stream_jump && freedom.tag) {
                stays.jump = behind_jump(stays, container, reference, choice);
            }
            return stays;
        }
        if (!freedom.tag) {
            by_digest.allowed.clear();
            return beside_digest(std::move(by_digest), Reason::beyond_policy,
                                 choice.sentence + ", but " + freedom.why_not_tag);
        }
        const TagInfo* info = knowledge_.tags.find(tag);
        if (info != nullptr && info->held) {
            return beside_digest(std::move(by_digest), Reason::beyond_policy,
                                 choice.sentence + ", but the tag stays while it is held");
        }
        return judge_candidates(std::move(by_digest), container, reference, choice, choose);
    }

    // Nothing is known of what tags there are.
    ContainerVerdict without_list(ContainerVerdict by_digest, const Listing* listing,
                                  const Choice& choice) const {
        const std::string why = listing != nullptr && !listing->failure.empty()
                                    ? listing->failure
                                    : "it has not been listed yet";
        const Policy::Kind kind = result_.settings->policy.parsed.kind();
        if (kind == Policy::Kind::force || choice.reason == Reason::fixed_tag ||
            by_webhooks_alone()) {
            return beside_digest(std::move(by_digest), choice.reason, choice.sentence);
        }
        return beside_digest(
            std::move(by_digest),
            choice.reason == Reason::stream_unknown ? choice.reason : Reason::no_answer,
            "which tags " + by_digest.tag->registry + "/" + by_digest.tag->repository +
                " has is not known: " + why);
    }

    // The tag stays, for this reason. What the digest does goes on as it would.
    ContainerVerdict beside_digest(ContainerVerdict by_digest, Reason reason,
                                   const std::string& sentence) const {
        const std::string both = reason == Reason::up_to_date
                                     ? by_digest.sentence
                                     : by_digest.sentence + "; " + sentence;
        const bool blocks = verdict_of(reason) == Verdict::blocked;
        if (by_digest.verdict == Verdict::roll || !blocks) {
            const bool plain = by_digest.reason == Reason::up_to_date;
            return say(by_digest, plain ? reason : by_digest.reason, both);
        }
        if (by_digest.verdict == Verdict::current) {
            return say(by_digest, reason, sentence);
        }
        return reason < by_digest.reason ? say(by_digest, reason, sentence)
                                         : say(by_digest, by_digest.reason, both);
    }

    // What is known of one tag that the policy allows.
    struct Candidate {
        enum class State {
            fit,
            waiting,      // for answers that are on their way
            passed_over,  // the next lower one is taken
            refused       // for its own sake, and with it all lower ones
        } state = State::fit;
        Reason reason = Reason::newer_tag;
        std::string why;
        Digest digest;
    };

    template <class Choose>
    ContainerVerdict judge_candidates(ContainerVerdict by_digest, const Container& container,
                                      const Reference& reference, Choice choice,
                                      const Choose& choose) {
        constexpr std::size_t kMostPassedOver = 32;
        std::vector<std::string> passed_over;
        std::string notes;
        Reason reason = Reason::incomplete;
        while (choice.reason == Reason::newer_tag && !choice.selected.empty() &&
               passed_over.size() < kMostPassedOver) {
            Tag tag = *by_digest.tag;
            tag.name = choice.selected;
            const Candidate candidate = look_at(tag, container);
            if (candidate.state != Candidate::State::passed_over) {
                return judge_candidate(std::move(by_digest), container, reference, tag, candidate,
                                       choice.sentence + notes);
            }
            reason = candidate.reason;
            notes += "; " + tag.name + " is passed over: " + candidate.why;
            passed_over.push_back(tag.name);
            choice = choose(passed_over);
        }
        if (verdict_of(choice.reason) == Verdict::blocked) {
            reason = choice.reason;
        }
        return beside_digest(std::move(by_digest), reason, choice.sentence + notes);
    }

    ContainerVerdict judge_candidate(ContainerVerdict by_digest, const Container& container,
                                     const Reference& reference, const Tag& tag,
                                     const Candidate& candidate, const std::string& sentence) {
        if (candidate.state == Candidate::State::refused) {
            return beside_digest(std::move(by_digest), candidate.reason,
                                 sentence + ", but " + candidate.why);
        }
        if (candidate.state == Candidate::State::waiting) {
            // What a restart would pull until then is no other than without the candidate.
            ContainerVerdict verdict = by_digest;
            verdict.target.reset();
            return say(verdict, Reason::no_answer, sentence + "; " + candidate.why);
        }
        const std::optional<std::string> image = reference.with_tag(tag.name, candidate.digest);
        if (!image) {
            return beside_digest(std::move(by_digest), Reason::reference_invalid,
                                 container.image.str() + " cannot name " + tag.name);
        }
        ContainerVerdict verdict = by_digest;
        verdict.allowed = tag.name;
        verdict.revert = false;
        verdict.would_change = false;
        verdict.target = Target{container.name,   tag,    runs_most(container),
                                candidate.digest, *image, container.image.str()};
        if (const std::string owner = second_owner(container); !owner.empty()) {
            return beside_digest(std::move(by_digest), Reason::second_owner,
                                 sentence + ", but " + owner);
        }
        if (const std::string* why = knowledge_.rejected(workload_.uid, *verdict.target)) {
            return beside_digest(std::move(by_digest), Reason::target_rejected,
                                 sentence + ", but it failed here before: " + *why);
        }
        if (const std::string* why = knowledge_.stalled(workload_.uid, *verdict.target)) {
            return beside_digest(
                std::move(by_digest), Reason::rollout_stalled,
                sentence + ", but it was rolled out already and did not arrive: " + *why);
        }
        if (container.pull == PullPolicy::never) {
            return say(verdict, Reason::restart_cannot_pull,
                       sentence + ", but its pull policy is Never");
        }
        if (const auto young = too_young(*knowledge_.tags.find(tag), candidate.digest)) {
            return beside_digest(std::move(by_digest), Reason::too_young,
                                 sentence + ", but " + *young);
        }
        if (auto blocked = block_for_now(verdict, sentence)) {
            return *blocked;
        }
        const bool told = workload_.key.kind != WorkloadKind::cron_job && !container.volume;
        if (told && verdict.target->from.empty()) {
            return say(verdict, Reason::no_baseline,
                       sentence + (entry_.running.known
                                       ? ", but none of its pods has started this container yet"
                                       : ", but its pods have not been read yet"));
        }
        return say(verdict, Reason::newer_tag,
                   sentence + "; it answers " + brief(candidate.digest.to_string()));
    }

    // What lies behind a jump, where nothing but the jump is in its way.
    std::optional<Target> behind_jump(const ContainerVerdict& stays, const Container& container,
                                      const Reference& reference, const Choice& choice) {
        const TagInfo* info = knowledge_.tags.find(*stays.tag);
        if (choice.beyond.empty() || (info != nullptr && info->held)) {
            return std::nullopt;
        }
        Tag tag = *stays.tag;
        tag.name = choice.beyond;
        const Candidate candidate = look_at(tag, container);
        if (candidate.state != Candidate::State::fit) {
            return std::nullopt;
        }
        const ContainerVerdict there =
            judge_candidate(stays, container, reference, tag, candidate, choice.sentence);
        return there.verdict == Verdict::roll ? there.target : std::nullopt;
    }

    Candidate look_at(const Tag& tag, const Container& container) {
        using State = Candidate::State;
        want(Want::What::answer, tag);
        const TagInfo* info = knowledge_.tags.find(tag);
        if (info == nullptr || info->pulled().empty()) {
            if (info == nullptr || info->failure.empty()) {
                return {State::waiting, Reason::no_answer, "its digest is being asked for", {}};
            }
            const bool gone = info->failure_code == "not-found";
            return gone ? Candidate{State::passed_over,
                                    Reason::incomplete,
                                    "it is listed, and " + info->failure,
                                    {}}
                        : Candidate{State::refused, Reason::no_answer, info->failure, {}};
        }
        const Digest& digest = info->pulled();
        if (info->held && !info->held->everywhere) {
            return {State::refused, Reason::held_at_cache,
                    "the caches do not hold it alike: " + info->held->caches, digest};
        }
        if (!info->held && !info->pending.empty()) {
            return {State::refused, Reason::revert_unconfirmed, reverting(*info), digest};
        }
        const Content* content = knowledge_.content(digest);
        if (content != nullptr && !content->platforms.empty()) {
            for (const std::string& platform : platforms_needed(container)) {
                if (content->entries_for(platform).empty()) {
                    return {State::passed_over, Reason::incomplete,
                            "it is not made for " + platform, digest};
                }
            }
        }
        const std::set<std::string> platforms = platforms_compared(container);
        if (content == nullptr || !tells_age(*content, platforms)) {
            if (const Error* why = knowledge_.fetch_failure(digest)) {
                const bool gone = why->code == "not-found";
                return {gone ? State::passed_over : State::refused,
                        gone ? Reason::incomplete : Reason::no_answer,
                        brief(digest.to_string()) + " cannot be fetched: " + why->text, digest};
            }
            want(Want::What::created, tag, digest);
            return {State::waiting, Reason::no_answer, "what it holds is being read", digest};
        }
        return compare_age(container, platforms, digest, *content);
    }

    // Where its pods are; where they do not tell, all nodes' ones.
    std::set<std::string> platforms_compared(const Container& container) const {
        std::set<std::string> platforms;
        for (const RunningImage& image : entry_.running.images) {
            if (image.container == container.name && image.init == container.init) {
                platforms.insert(image.platform.str());
            }
        }
        if (platforms.empty()) {
            const std::vector<std::string> nodes = nodes_allowed();
            platforms.insert(nodes.begin(), nodes.end());
        }
        return platforms.empty() ? std::set<std::string>{""} : platforms;
    }

    // Whether what the images themselves say of their age has been read.
    static bool tells_age(const Content& content, const std::set<std::string>& platforms) {
        return std::ranges::all_of(platforms, [&content](const std::string& platform) {
            return std::ranges::all_of(content.entries_for(platform),
                                       [](const auto* one) { return one->created.has_value(); });
        });
    }

    // When the newest image for the platform was made; epoch: it does not say, or before 2000, as
    // reproducible builds do.
    static Time made_at(const Content& content, const std::string& platform) {
        constexpr Time k2000{std::chrono::sys_days{std::chrono::year{2000} / 1 / 1}};
        Time newest{};
        for (const PlatformContent* one : content.entries_for(platform)) {
            newest = std::max(newest, one->created.value_or(Time{}));
        }
        return newest > k2000 ? newest : Time{};
    }

    // An image that was built well before what runs is no newer version, whatever its name.
    Candidate compare_age(const Container& container, const std::set<std::string>& platforms,
                          const Digest& digest, const Content& content) {
        using State = Candidate::State;
        constexpr auto kTolerated = std::chrono::hours{24};
        const std::size_t at = static_cast<std::size_t>(&container - workload_.containers.data());
        for (const Digest& running : runs(container)) {
            const Content* known = knowledge_.content(running);
            if (known == nullptr || !tells_age(*known, platforms)) {
                if (const Error* why = knowledge_.fetch_failure(running)) {
                    if (why->code == "not-found") {
                        continue;  // gone from the registry: nobody will ever know
                    }
                    return {State::refused, Reason::no_answer,
                            "the age of what runs, " + brief(running.to_string()) +
                                ", cannot be read: " + why->text,
                            digest};
                }
                want(Want::What::created, *entry_.references[at]->tag(), running);
                return {State::waiting, Reason::no_answer, "the age of what runs is being read",
                        digest};
            }
            for (const std::string& platform : platforms) {
                const Time ours = made_at(*known, platform);
                const Time theirs = made_at(content, platform);
                if (ours != Time{} && theirs != Time{} && theirs + kTolerated < ours) {
                    return {
                        State::passed_over, Reason::older_build,
                        "it was built " + format_time(theirs) + ", what runs " + format_time(ours),
                        digest};
                }
            }
        }
        return {State::fit, Reason::newer_tag, "", digest};
    }

    // The nodes' platforms that its pods may be scheduled to.
    std::vector<std::string> nodes_allowed() const {
        std::vector<std::string> nodes = knowledge_.platforms();
        std::erase_if(nodes, [this](const std::string& one) { return !workload_.runs_on(one); });
        return nodes;
    }

    // The platforms that the container may run on: where its pods are, and the nodes that what runs
    // now is made for; of both those that the pod template allows.
    std::set<std::string> platforms_needed(const Container& container) const {
        std::set<std::string> needed;
        const std::vector<std::string> nodes = nodes_allowed();
        for (const RunningImage& image : entry_.running.images) {
            if (!image.platform.empty() && workload_.runs_on(image.platform)) {
                needed.insert(image.platform.str());
            }
        }
        for (const Digest& digest : runs(container)) {
            const Content* content = knowledge_.content(digest);
            for (const std::string& node : nodes) {
                if (content != nullptr &&
                    std::ranges::any_of(content->entries_for(node),
                                        [](const auto* one) { return !one->platform.empty(); })) {
                    needed.insert(node);
                }
            }
        }
        return needed;
    }

    // The digests that pods run in the container; what its tag answers where pods do not tell.
    std::vector<Digest> runs(const Container& container) const {
        std::vector<Digest> digests;
        for (const RunningImage& image : entry_.running.images) {
            const std::optional<Digest> digest = Digest::parse(image.digest);
            if (image.container == container.name && image.init == container.init && digest) {
                digests.push_back(*digest);
            }
        }
        const std::size_t at = static_cast<std::size_t>(&container - workload_.containers.data());
        const TagInfo* info = knowledge_.tags.find(*entry_.references[at]->tag());
        if (digests.empty() && info != nullptr && !info->pulled().empty()) {
            digests.push_back(info->pulled());
        }
        return digests;
    }

    std::string runs_most(const Container& container) const {
        const RunningImage* most = nullptr;
        for (const RunningImage& image : entry_.running.images) {
            if (image.container == container.name && image.init == container.init &&
                !image.digest.empty() && (most == nullptr || image.pods > most->pods)) {
                most = &image;
            }
        }
        return most != nullptr ? most->digest.str() : "";
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
                reported ? compare_one(tag, *reported, target, content, image.platform.str())
                         : SameContent::different;
            // A node takes an image without an index whatever its config says. Where one runs that
            // is marked for another platform, the mark of the next tells nothing.
            const Content* runs = reported ? knowledge_.content(*reported) : nullptr;
            const bool mismarked = runs != nullptr && runs->kind == ManifestKind::image &&
                                   lacks(runs, image.platform.str());
            if (lacks(content, image.platform.str()) &&
                !(mismarked && content->kind == ManifestKind::image)) {
                found.missing = image.platform.str();
            }
            unknown = unknown || same == SameContent::unknown;
            by_content = by_content || same == SameContent::same;
            if (same == SameContent::different && image.pods > most) {
                most = image.pods;
                found.from = image.digest.str();
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

    static bool lacks(const Content* content, const std::string& platform) {
        return content != nullptr && !content->platforms.empty() &&
               content->entries_for(platform).empty();
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
            want(WorkloadVerdict::Want::What::content, tag, reported);
        }
        const SameContent same = content != nullptr
                                     ? compare_content(reported, known, *content, platform)
                                     : SameContent::unknown;
        if (same != SameContent::same && (content == nullptr || !content->tells_platform())) {
            want(WorkloadVerdict::Want::What::content, tag, target);
            return SameContent::unknown;
        }
        // What cannot be fetched any more cannot be compared; the digest differs, and that is what
        // moved.
        return same == SameContent::unknown && (lost || known != nullptr) ? SameContent::different
                                                                          : same;
    }

    // V5: containers cross to another stream by a vote for just that, and only where nothing else
    // of the workload is to change.
    void cross_streams() {
        std::vector<Target> targets;
        for (const ContainerVerdict& one : result_.containers) {
            if (one.verdict == Verdict::roll) {
                return;
            }
            if (one.jump) {
                targets.push_back(*one.jump);
            }
        }
        if (targets.empty()) {
            return;
        }
        result_.vote_because = "it crosses to another product or numbering";
        if (!knowledge_.approved(workload_.uid, targets)) {
            result_.asks = std::move(targets);
            return;
        }
        for (ContainerVerdict& one : result_.containers) {
            if (one.jump) {
                one.target = one.jump;
                one.allowed = one.jump->tag.name;
                one = say(one, Reason::newer_tag, one.sentence + "; a vote released it");
            }
        }
    }

    // Containers with equal references move together, or not at all.
    void move_together() {
        for (std::size_t i = 0; i < result_.containers.size(); ++i) {
            ContainerVerdict& one = result_.containers[i];
            if (one.verdict != Verdict::roll || one.target->image.empty()) {
                continue;
            }
            for (std::size_t j = 0; j < result_.containers.size(); ++j) {
                const ContainerVerdict& other = result_.containers[j];
                const bool equal = other.tag == one.tag && entry_.references[j] &&
                                   entry_.references[j]->digest == entry_.references[i]->digest;
                const bool along = other.verdict == Verdict::roll &&
                                   other.target->tag == one.target->tag &&
                                   other.target->to == one.target->to;
                // One that this loop has stopped waits for the one that stopped it, not for us.
                if (equal && !along && other.reason != Reason::sibling_blocked) {
                    one = say(
                        one, Reason::sibling_blocked,
                        one.sentence + "; but container " + workload_.containers[j].name +
                            " has the same reference and does not move with it: " + other.sentence);
                    break;
                }
            }
        }
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
        const Setting& policy = result_.settings->policy;
        if (result_.standing.ours && policy.value == "force" && policy.layer != "default" &&
            !result_.settings->match_tag.parsed) {
            result_.sentence +=
                "; Keel's force without matchTag would take other tags, here it follows the digest";
        }
        for (const ContainerVerdict& one : result_.containers) {
            if (one.verdict == Verdict::roll) {
                result_.targets.push_back(*one.target);
                if (one.revert && knowledge_.config.defaults.reverts == Reverts::ask) {
                    result_.vote_because = "the target is older than what runs, and reverts is ask";
                }
            }
        }
    }

    const CatalogueEntry& entry_;
    const Workload& workload_;
    const Knowledge& knowledge_;
    WorkloadVerdict result_;
};

}  // namespace

std::string targets_text(const std::vector<Target>& targets) {
    std::string text;
    for (const Target& target : targets) {
        text += (text.empty() ? "" : ", ") + target.container + " " + target.tag.to_string() + " " +
                target.to.to_string();
    }
    return text;
}

WorkloadVerdict judge(const CatalogueEntry& entry, const Knowledge& knowledge) {
    return Judge(entry, knowledge).run();
}

}  // namespace keel
