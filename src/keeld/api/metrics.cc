// Views::metrics: Prometheus text, serialised by prometheus-cpp from what the components count.
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <sstream>
#include <utility>

#include "keeld/api/views.h"
#include "keeld/api/webhooks.h"

namespace keel {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class Families {
  public:
    void counter(const char* name, const char* help, std::uint64_t value,
                 std::vector<ClientMetric::Label> labels = {}) {
        ClientMetric metric;
        metric.counter.value = static_cast<double>(value);
        metric.label = std::move(labels);
        family(name, help, MetricType::Counter).metric.push_back(std::move(metric));
    }
    void gauge(const char* name, const char* help, double value,
               std::vector<ClientMetric::Label> labels = {}) {
        ClientMetric metric;
        metric.gauge.value = value;
        metric.label = std::move(labels);
        family(name, help, MetricType::Gauge).metric.push_back(std::move(metric));
    }
    [[nodiscard]] std::string text() const {
        std::ostringstream out;
        prometheus::TextSerializer().Serialize(out, families_);
        return out.str();
    }

  private:
    MetricFamily& family(const char* name, const char* help, MetricType type) {
        if (families_.empty() || families_.back().name != name) {
            MetricFamily fresh;
            fresh.name = name;
            fresh.help = help;
            fresh.type = type;
            families_.push_back(std::move(fresh));
        }
        return families_.back();
    }
    std::vector<MetricFamily> families_;
};

double seconds_of(Time time) {
    return static_cast<double>(time.time_since_epoch().count()) / 1000.0;
}

void add_rollouts(Families& out, const Rollouts::Metrics& metrics) {
    out.counter("keeld_rollouts_intended_total", "Rollouts whose intent was committed.",
                metrics.intended);
    out.counter("keeld_rollouts_applied_total", "Patches that the API server accepted.",
                metrics.applied);
    const char* const help = "Rollouts that ended, by outcome.";
    out.counter("keeld_rollouts_ended_total", help, metrics.done, {{"outcome", "done"}});
    out.counter("keeld_rollouts_ended_total", help, metrics.failed, {{"outcome", "failed"}});
    out.counter("keeld_rollouts_ended_total", help, metrics.superseded,
                {{"outcome", "superseded"}});
    out.counter("keeld_rollouts_ended_total", help, metrics.recalled, {{"outcome", "recalled"}});
    out.counter("keeld_patch_conflicts_total",
                "Patches that met a newer object and were judged again.", metrics.conflicts);
}

// A workload counts where its newest verdict says; one that was not judged yet counts nowhere.
void add_verdicts(Families& out, const Catalogue& catalogue) {
    std::map<std::pair<Verdict, Reason>, std::size_t> counts;
    for (const auto& [key, entry] : catalogue.workloads()) {
        if (entry.judged) {
            ++counts[*entry.judged];
        }
    }
    for (const auto& [judged, count] : counts) {
        out.gauge("keeld_verdicts", "Workloads by their verdict and its reason (keelctl why).",
                  static_cast<double>(count),
                  {{"verdict", std::string(to_string(judged.first))},
                   {"reason", std::string(to_string(judged.second))}});
    }
}

void add_problems(Families& out, const std::vector<Problem>& problems) {
    std::map<std::string, std::size_t> counts;
    for (const Problem& problem : problems) {
        ++counts[problem.code];
    }
    for (const auto& [code, count] : counts) {
        out.gauge("keeld_problems", "Entries in the list of problems (keelctl status), by code.",
                  static_cast<double>(count), {{"code", code}});
    }
}

void add_events(Families& out, const CacheFeed::Metrics& metrics) {
    out.counter("keeld_event_requests_total", "Accepted requests with events.", metrics.accepted);
    const char* const help = "Requests with events that were refused, by reason.";
    out.counter("keeld_event_requests_refused_total", help, metrics.refused_signature,
                {{"reason", "signature"}});
    out.counter("keeld_event_requests_refused_total", help, metrics.refused_skew,
                {{"reason", "clock-skew"}});
    out.counter("keeld_event_requests_refused_total", help, metrics.refused_malformed,
                {{"reason", "malformed"}});
    out.counter("keeld_events_unknown_cache_total",
                "Events of caches that keeld.yaml does not name.", metrics.unknown_cache);
}

void add_registries(Families& out, const std::vector<RegistryState>& states) {
    const auto labels = [](const RegistryState& state) {
        return std::vector<ClientMetric::Label>{{"registry", state.registry}, {"by", state.source}};
    };
    const auto count = [&](const char* name, const char* help, auto value) {
        for (const RegistryState& state : states) {
            out.counter(name, help, state.*value, labels(state));
        }
    };
    count("keeld_registry_requests_total", "Requests to registries, tokens and contents too.",
          &RegistryState::requests);
    count("keeld_registry_pulls_total", "GETs of manifests among them.", &RegistryState::pulls);
    count("keeld_registry_postponed_total",
          "Requests that were not sent: budget, Retry-After, reserve or circuit.",
          &RegistryState::postponed);
    count("keeld_registry_failures_total", "Failures of a registry as a whole.",
          &RegistryState::failures);
    for (const RegistryState& state : states) {
        out.gauge("keeld_registry_circuit_open", "1 while a registry is taken for down.",
                  state.circuit == "closed" ? 0 : 1, labels(state));
    }
    for (const RegistryState& state : states) {
        out.gauge("keeld_registry_wait_seconds", "For how long nothing, or no pull, is sent to it.",
                  std::chrono::duration<double>(state.wait).count(), labels(state));
    }
    for (const RegistryState& state : states) {
        if (state.remaining) {
            out.gauge("keeld_registry_rate_remaining",
                      "What the registry still allows by RateLimit-Remaining.",
                      static_cast<double>(*state.remaining), labels(state));
        }
    }
}

}  // namespace

ApiResponse Views::metrics() {
    Families out;
    out.gauge("keeld_build_info", "Version of keeld.", 1, {{"version", KEEL_VERSION}});
    out.gauge("keeld_ready", "1 once workloads are listed.", parts_.ready() ? 1 : 0);
    out.gauge("keeld_leader", "1 while this keeld holds the Lease.",
              parts_.lease != nullptr && parts_.lease->held() ? 1 : 0);
    out.gauge("keeld_workloads", "Workloads in the catalogue.",
              static_cast<double>(parts_.catalogue.workloads().size()));
    out.gauge("keeld_tags", "Tags that workloads refer to.",
              static_cast<double>(parts_.catalogue.by_tag().size()));
    add_verdicts(out, parts_.catalogue);
    out.gauge("keeld_approvals_pending", "Rollouts that wait for votes.",
              static_cast<double>(parts_.approvals != nullptr ? parts_.approvals->pending() : 0));
    out.gauge("keeld_ledger_queued", "Writes that are not durable yet.",
              static_cast<double>(parts_.ledger.queued()));
    add_events(out, parts_.feed.metrics());
    if (parts_.webhooks != nullptr) {
        for (const auto& [key, count] : parts_.webhooks->counts()) {
            out.counter("keeld_webhooks_total", "Webhooks by sender and what came of them.", count,
                        {{"sender", key.first}, {"result", key.second}});
        }
    }
    for (const CacheFeed::State& cache : parts_.feed.states()) {
        out.gauge("keeld_cache_last_resync_timestamp_seconds",
                  "When a cache's tag table was read last.", seconds_of(cache.last_resync),
                  {{"cache", cache.name}});
    }
    for (const CacheFeed::State& cache : parts_.feed.states()) {
        out.counter("keeld_events_applied_total", "States that a cache told and that were taken.",
                    cache.events, {{"cache", cache.name}});
    }
    for (const CacheFeed::State& cache : parts_.feed.states()) {
        out.counter("keeld_events_stale_total", "States that a cache told and that were not newer.",
                    cache.stale, {{"cache", cache.name}});
    }
    for (const CacheFeed::State& cache : parts_.feed.states()) {
        out.counter("keeld_cache_entries_unreadable_total",
                    "Entries of a cache's tag table that could not be read.", cache.left_out,
                    {{"cache", cache.name}});
    }
    const RegistryMetrics& registry = parts_.registry.metrics();
    out.counter("keeld_lookups_total", "Look-ups of tags through caches or directly.",
                registry.lookups);
    out.counter("keeld_lookup_failures_total", "Look-ups without a comparable answer.",
                registry.failures);
    out.counter("keeld_upstream_lookups_total", "Questions to second sources.", registry.upstream);
    out.counter("keeld_content_requests_total", "Manifests fetched to learn what a digest holds.",
                registry.content);
    out.counter("keeld_tag_lists_total", "Lists of tags that were asked for.", registry.lists);
    out.counter("keeld_tag_list_pages_total", "Pages of them.", registry.pages);
    add_registries(out, parts_.registry.budget().states());
    const AuthorizationMetrics& tokens = parts_.registry.authorization().metrics();
    out.counter("keeld_token_requests_total", "Tokens that registries' realms were asked for.",
                tokens.tokens);
    out.counter("keeld_token_failures_total", "Token requests that brought none.", tokens.failures);
    out.counter("keeld_credentials_refused_total",
                "Credentials and tokens that a registry or its realm refused.", tokens.refused);
    for (const auto& [state, count] : watch_counts_.of(watch_parts(), parts_.clock.now())) {
        out.gauge("keeld_watches",
                  "Tags that containers of enrolled workloads refer to; whatever is not fine or "
                  "waiting cannot fire (keelctl audit watches).",
                  static_cast<double>(count), {{"state", state}});
    }
    if (parts_.schedule != nullptr) {
        const Schedule::Metrics& metrics = parts_.schedule->metrics();
        out.gauge("keeld_lookups_waiting", "Look-ups and lists that are due and not answered yet.",
                  static_cast<double>(parts_.schedule->waiting()));
        out.counter("keeld_lookups_spared_total",
                    "Look-ups that were due, but for an answer that traffic had brought.",
                    metrics.spared);
        out.counter("keeld_tag_list_failures_total", "Lists of tags that could not be had.",
                    metrics.list_failures);
        out.gauge("keeld_tags_gone", "Followed tags that are not in the registry any more.",
                  static_cast<double>(parts_.schedule->gone().size()));
    }
    std::size_t own = 0;
    const std::vector<Holds::View> holds = parts_.holds.all();
    for (const Holds::View& view : holds) {
        own += view.own ? 1 : 0;
    }
    const char* const help = "Holds, of this keeld and of others.";
    out.gauge("keeld_holds", help, static_cast<double>(own), {{"owner", "this"}});
    out.gauge("keeld_holds", help, static_cast<double>(holds.size() - own), {{"owner", "other"}});
    if (parts_.rollouts != nullptr) {
        add_rollouts(out, parts_.rollouts->metrics());
        out.gauge("keeld_rollouts_active", "Rollouts that wait or are under way.",
                  static_cast<double>(parts_.rollouts->all_active().size()));
        out.gauge("keeld_pacing_used", "Places taken in the cluster's pacing window.",
                  parts_.rollouts->pacing().used(parts_.clock.now()));
    }
    add_problems(out, problems());
    ApiResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = out.text();
    return response;
}

}  // namespace keel
