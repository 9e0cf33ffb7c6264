#include "core/snapshot.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <utility>

namespace keel {
namespace {

constexpr std::string_view kMagic = "keelsnap";
constexpr std::size_t kEpoch = 32;
constexpr std::size_t kBuffer = 65'536;
constexpr std::uint64_t kLargestSeq = std::uint64_t{1} << 62;
constexpr std::uint8_t kNone = 255;  // instead of an index into the history

// --- numbers, little endian ---

template <class T>
void put(std::string& out, T value) {
    char bytes[sizeof(T)];
    for (std::size_t i = 0; i < sizeof(T); ++i)
        bytes[i] = static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i));
    out.append(bytes, sizeof(T));
}

void put(std::string& out, Time time) {
    put(out, static_cast<std::uint64_t>(time.time_since_epoch().count()));
}

template <class T>
T number_at(std::string_view bytes, std::size_t at) noexcept {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
        value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    return static_cast<T>(value);
}

Time time_at(std::string_view bytes, std::size_t at) noexcept {
    return Time{Millis{static_cast<std::int64_t>(number_at<std::uint64_t>(bytes, at))}};
}

// Takes fields off the front; after the first that is not there everything is empty.
class Fields {
  public:
    explicit Fields(std::string_view bytes) noexcept : rest_(bytes) {}

    std::string_view text(std::size_t size) noexcept {
        if (size > rest_.size()) {
            short_ = true;
            rest_ = {};
            return {};
        }
        const std::string_view result = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return result;
    }
    template <class T>
    T number() noexcept {
        const std::string_view bytes = text(sizeof(T));
        return bytes.empty() ? T{0} : number_at<T>(bytes, 0);
    }
    Time moment() noexcept {
        return Time{Millis{static_cast<std::int64_t>(number<std::uint64_t>())}};
    }
    // All was there, and nothing is left.
    [[nodiscard]] bool fit() const noexcept { return !short_ && rest_.empty(); }

  private:
    std::string_view rest_;
    bool short_ = false;
};

// --- what a tag may hold ---

bool is_registry_name(std::string_view text) noexcept {
    return !text.empty() && text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-:[]") ==
                                std::string_view::npos;
}

bool printable(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::size_t digest_size(Digest::Algorithm algorithm) noexcept {
    return algorithm == Digest::Algorithm::sha512 ? 64 : 32;
}

std::uint8_t place_of(const std::vector<Sighting>& history, const Digest& digest) noexcept {
    const auto found = std::find_if(history.begin(), history.end(), [&](const Sighting& sighting) {
        return sighting.digest == digest;
    });
    return found == history.end() ? kNone : static_cast<std::uint8_t>(found - history.begin());
}

std::uint8_t place_of(const std::vector<Sighting>& history,
                      const std::optional<Digest>& digest) noexcept {
    return digest ? place_of(history, *digest) : kNone;
}

bool distinct(const std::vector<Sighting>& history) noexcept {
    for (auto one = history.begin(); one != history.end(); ++one) {
        if (std::any_of(one + 1, history.end(),
                        [&](const Sighting& other) { return other.digest == one->digest; }))
            return false;
    }
    return true;
}

std::string_view view(const std::string& text, std::size_t most) noexcept {
    return std::string_view{text}.substr(0, most);
}

tl::unexpected<Error> damaged(const char* what) {
    return fail("damaged", what);
}

tl::unexpected<Error> torn() {
    return fail("torn", "it ends in the middle");
}

}  // namespace

// --- a tag ---

std::string encode_snapshot_tag(const TagRecord& tag) {
    const TagState& state = tag.state;
    const std::size_t count = std::min(state.history.size(), kMaxSnapshotHistory);
    const std::string_view node = view(state.node, 255);
    std::string out;
    out.reserve(256 + 96 * count);
    put(out, static_cast<std::uint8_t>(state.change));
    put(out, static_cast<std::uint8_t>(state.asked_by));
    put(out, static_cast<std::uint8_t>(count));
    put(out, place_of(state.history, state.digest));
    put(out, place_of(state.history, state.previous));
    put(out, place_of(state.history, state.pending));
    put(out, static_cast<std::uint8_t>(state.tag.registry.size()));
    put(out, static_cast<std::uint8_t>(state.tag.repository.size()));
    put(out, static_cast<std::uint8_t>(state.tag.name.size()));
    put(out, static_cast<std::uint8_t>(node.size()));
    put(out, state.seq);
    put(out, tag.changed);
    for (std::size_t i = 0; i < count; ++i) {
        const Sighting& sighting = state.history[i];
        const std::span<const std::uint8_t> bytes = sighting.digest.bytes();
        put(out, static_cast<std::uint8_t>(sighting.digest.algorithm()));
        put(out, static_cast<std::uint8_t>(sighting.kind));
        put(out, sighting.first_seen);
        put(out, sighting.last_seen);
        out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    out.append(state.tag.registry).append(state.tag.repository).append(state.tag.name);
    out.append(node);
    return out;
}

Expected<TagRecord> decode_snapshot_tag(std::string_view bytes) {
    Fields fields{bytes};
    TagRecord tag;
    TagState& state = tag.state;
    const auto change = fields.number<std::uint8_t>();
    const auto asker = fields.number<std::uint8_t>();
    const auto count = fields.number<std::uint8_t>();
    const auto current = fields.number<std::uint8_t>();
    const auto previous = fields.number<std::uint8_t>();
    const auto pending = fields.number<std::uint8_t>();
    const auto registry = fields.number<std::uint8_t>();
    const auto repository = fields.number<std::uint8_t>();
    const auto name = fields.number<std::uint8_t>();
    const auto node = fields.number<std::uint8_t>();
    state.seq = fields.number<std::uint64_t>();
    tag.changed = fields.moment();
    if (change > static_cast<std::uint8_t>(Change::held) ||
        asker > static_cast<std::uint8_t>(Asker::keeld))
        return damaged("a tag with an unknown change");
    const auto place = [&](std::uint8_t index) { return index == kNone || index < count; };
    if (count > kMaxSnapshotHistory || current >= count || !place(previous) || !place(pending) ||
        previous == current || pending == current)
        return damaged("a tag whose digests are not its own");
    for (std::size_t i = 0; i < count; ++i) {
        const auto algorithm = static_cast<Digest::Algorithm>(fields.number<std::uint8_t>());
        const auto kind = fields.number<std::uint8_t>();
        if (kind > static_cast<std::uint8_t>(ManifestKind::legacy))
            return damaged("a digest of an unknown kind");
        Sighting sighting;
        sighting.kind = static_cast<ManifestKind>(kind);
        sighting.first_seen = fields.moment();
        sighting.last_seen = fields.moment();
        const std::string_view raw = fields.text(digest_size(algorithm));
        sighting.digest = Digest::from_bytes(
            algorithm, {reinterpret_cast<const std::uint8_t*>(raw.data()), raw.size()});
        if (sighting.digest.empty()) return damaged("a digest that is none");
        state.history.push_back(sighting);
    }
    state.tag.registry = fields.text(registry);
    state.tag.repository = fields.text(repository);
    state.tag.name = fields.text(name);
    state.node = fields.text(node);
    if (!fields.fit()) return damaged("a tag of another size than it says");
    if (!distinct(state.history)) return damaged("a digest twice in one tag");
    if (!is_registry_name(state.tag.registry) || !is_repository(state.tag.repository) ||
        !is_tag_name(state.tag.name) || !printable(state.node))
        return damaged("a tag whose name is none");
    state.kind = state.history[current].kind;
    state.change = static_cast<Change>(change);
    state.asked_by = static_cast<Asker>(asker);
    state.digest = state.history[current].digest;
    state.first_seen = state.history[current].first_seen;
    state.last_seen = state.history[current].last_seen;
    if (previous != kNone) state.previous = state.history[previous].digest;
    if (pending != kNone) state.pending = state.history[pending].digest;
    return tag;
}

Expected<SnapshotOrigin> decode_snapshot_origin(std::string_view bytes) {
    if (!bytes.starts_with(kMagic)) return fail("foreign", "it is no snapshot of a tag table");
    if (bytes.size() < kSnapshotOrigin) return torn();
    SnapshotOrigin origin;
    origin.version = number_at<std::uint32_t>(bytes, 8);
    origin.generation = number_at<std::uint64_t>(bytes, 16);
    origin.process = number_at<std::uint32_t>(bytes, 24);
    origin.process_started = number_at<std::uint64_t>(bytes, 32);
    return origin;
}

// --- SHA-256 ---

void Sha256::Free::operator()(evp_md_ctx_st* context) const noexcept {
    EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1)
        throw std::bad_alloc();
}

void Sha256::add(std::string_view bytes) {
    if (EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

std::string Sha256::take() {
    std::string sum(kSize, '\0');
    if (EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(sum.data()), nullptr) !=
        1)
        throw std::bad_alloc();
    return sum;
}

// --- writing ---

SnapshotEncoder::SnapshotEncoder(const SnapshotHead& head) {
    std::string out{kMagic};
    put(out, kSnapshotVersion);
    put(out, static_cast<std::uint32_t>(kSnapshotHead));
    put(out, head.origin.generation);
    put(out, head.origin.process);
    put(out, std::uint32_t{0});
    put(out, head.origin.process_started);
    std::string epoch = head.epoch;
    epoch.resize(kEpoch, '0');
    out.append(epoch);
    put(out, head.seq);
    put(out, head.written);
    append(out);
}

void SnapshotEncoder::add(const TagRecord& tag) {
    const std::string bytes = encode_snapshot_tag(tag);
    std::string size;
    put(size, static_cast<std::uint16_t>(bytes.size()));
    append(size);
    append(bytes);
    ++count_;
}

void SnapshotEncoder::finish() {
    std::string out;
    put(out, std::uint16_t{0});
    put(out, count_);
    append(out);
    out_.append(sum_.take());
}

std::string SnapshotEncoder::take() {
    return std::exchange(out_, {});
}

void SnapshotEncoder::append(std::string_view bytes) {
    out_.append(bytes);
    sum_.add(bytes);
}

// --- reading ---

SnapshotDecoder::SnapshotDecoder(Source source)
    : source_(std::move(source)), buffer_(kBuffer, '\0') {}

// The next bytes of the file; valid until the next call.
Expected<std::string_view> SnapshotDecoder::bytes(std::size_t size) {
    while (end_ - begin_ < size) {
        if (begin_ > 0) {
            std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
            end_ -= begin_;
            begin_ = 0;
        }
        const Expected<std::size_t> got = source_(buffer_.data() + end_, buffer_.size() - end_);
        if (!got) return tl::unexpected<Error>(got.error());
        if (*got == 0) return torn();
        end_ += *got;
    }
    const std::string_view result{buffer_.data() + begin_, size};
    begin_ += size;
    return result;
}

Expected<SnapshotHead> SnapshotDecoder::head() {
    // Whatever is shorter than the magic is foreign and not torn: an empty file, for one.
    Expected<std::string_view> start = bytes(kMagic.size());
    if (!start && start.error().code != "torn") return tl::unexpected<Error>(start.error());
    if (!start || *start != kMagic) return fail("foreign", "it is no snapshot of a tag table");
    begin_ = 0;
    const Expected<std::string_view> head = bytes(kSnapshotHead);
    if (!head) return tl::unexpected<Error>(head.error());
    const Expected<SnapshotOrigin> origin = decode_snapshot_origin(*head);
    if (!origin) return tl::unexpected<Error>(origin.error());
    if (origin->version > kSnapshotVersion) {
        return fail("newer", "it is of version " + std::to_string(origin->version) +
                                 " of the format, and this module reads up to " +
                                 std::to_string(kSnapshotVersion));
    }
    if (origin->version == 0 || number_at<std::uint32_t>(*head, 12) != kSnapshotHead)
        return damaged("its head is of another size than it says");
    SnapshotHead result;
    result.origin = *origin;
    epoch_ = head->substr(kSnapshotOrigin, kEpoch);
    result.epoch = epoch_;
    result.seq = number_at<std::uint64_t>(*head, kSnapshotOrigin + kEpoch);
    result.written = time_at(*head, kSnapshotOrigin + kEpoch + 8);
    if (!printable(epoch_)) return damaged("an epoch that is none");
    sum_.add(*head);
    return result;
}

Expected<std::optional<TagRecord>> SnapshotDecoder::next() {
    const Expected<std::string_view> prefix = bytes(2);
    if (!prefix) return tl::unexpected<Error>(prefix.error());
    const std::size_t size = number_at<std::uint16_t>(*prefix, 0);
    sum_.add(*prefix);
    if (size == 0) {
        const Expected<void> complete = end();
        if (!complete) return tl::unexpected<Error>(complete.error());
        return std::optional<TagRecord>{};
    }
    if (size > kMaxSnapshotRecord) return damaged("a tag that is too large");
    const Expected<std::string_view> record = bytes(size);
    if (!record) return tl::unexpected<Error>(record.error());
    sum_.add(*record);
    Expected<TagRecord> tag = decode_snapshot_tag(*record);
    if (!tag) return tl::unexpected<Error>(tag.error());
    if (tag->state.seq == 0 || tag->state.seq > kLargestSeq)
        return damaged("a tag without a number");
    tag->state.epoch = epoch_;
    ++count_;
    return std::optional<TagRecord>{std::move(*tag)};
}

Expected<void> SnapshotDecoder::end() {
    const Expected<std::string_view> count = bytes(8);
    if (!count) return tl::unexpected<Error>(count.error());
    if (number_at<std::uint64_t>(*count, 0) != count_)
        return damaged("another number of tags than it says");
    sum_.add(*count);
    const Expected<std::string_view> sum = bytes(Sha256::kSize);
    if (!sum) return tl::unexpected<Error>(sum.error());
    if (*sum != sum_.take()) return damaged("its checksum is wrong");
    const Expected<std::string_view> more = bytes(1);
    if (more) return damaged("something follows its end");
    if (more.error().code != "torn") return tl::unexpected<Error>(more.error());
    return {};
}

}  // namespace keel
