// Values that the tests of keeld's decisions are made of.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/clock.h"
#include "keeld/cluster/objects.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"

namespace keel::test {

// sha256:aaaa… for 'a'.
inline Digest digest(char hex) {
    return *Digest::parse("sha256:" + std::string(64, hex));
}

// So many seconds after an arbitrary noon.
inline Time at(std::int64_t seconds) {
    return *parse_time("2026-11-22T12:00:00.000Z") + std::chrono::seconds(seconds);
}

inline Tag tag(const std::string& name = "1.27") {
    return Tag{"docker.io", "library/nginx", name};
}

class TestClock final : public Clock {
  public:
    [[nodiscard]] Time now() const override { return time; }
    Time time = at(0);
};

inline std::unique_ptr<Ledger> open_ledger(Loop& loop, const std::string& path = ":memory:") {
    auto ledger = Ledger::open(loop, path);
    if (!ledger) throw std::runtime_error(ledger.error().text);
    return std::move(*ledger);
}

// A directory that goes with the test.
class ScratchDirectory {
  public:
    ScratchDirectory() {
        std::string pattern = (std::filesystem::temp_directory_path() / "keeld-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    ~ScratchDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    ScratchDirectory(const ScratchDirectory&) = delete;
    ScratchDirectory& operator=(const ScratchDirectory&) = delete;
    [[nodiscard]] std::string file(const std::string& name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

inline Container container(const std::string& name, const std::string& image) {
    return Container{name, image, PullPolicy::always, false};
}

// A Deployment that has settled with two replicas.
inline Workload deployment(const std::string& ns, const std::string& name,
                           std::vector<Container> containers) {
    Workload workload;
    workload.key = {WorkloadKind::deployment, ns, name};
    workload.uid = "uid-" + name;
    workload.resource_version = "1";
    workload.generation = 1;
    workload.observed_generation = 1;
    workload.containers = std::move(containers);
    workload.replicas = workload.updated = workload.ready = workload.available = 2;
    workload.current = 2;
    return workload;
}

inline Namespace enrolled(const std::string& name) {
    Namespace ns;
    ns.name = name;
    ns.uid = "uid-ns-" + name;
    ns.labels["keel.sh/enrolled"] = "true";
    return ns;
}

}  // namespace keel::test
