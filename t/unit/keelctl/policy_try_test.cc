#include "keelctl/policy_try.h"

#include <sstream>

#include <gtest/gtest.h>

#include "keelctl/commands.h"
#include "unit/tree.h"

namespace keel::ctl {
namespace {

struct Result {
    int code;
    std::string out;
    std::string err;
};

Result batch(const std::string& rows) {
    std::istringstream in{rows};
    std::ostringstream out;
    std::ostringstream err;
    const int code = try_policies(in, out, err);
    return {code, out.str(), err.str()};
}

Result keelctl(std::vector<const char*> words, const std::string& input = "") {
    words.insert(words.begin(), "keelctl");
    std::istringstream in{input};
    std::ostringstream out;
    std::ostringstream err;
    Environment environment;
    environment.in = &in;
    const int code = run(static_cast<int>(words.size()), words.data(), environment, out, err);
    return {code, out.str(), err.str()};
}

const std::string kHeading = "policy\tmatch_pre_release\tcurrent\ttags\n";

TEST(PolicyTry, prints_the_worked_cases_with_their_answers) {
    const std::string whole = test::read_file(test::tree() / "t/data/policy.tsv");
    std::string asked;
    std::istringstream rows{whole};
    for (std::string row; std::getline(rows, row);) {
        std::size_t end = 0;
        for (int i = 0; i < 4; ++i)
            end = row.find('\t', end) + 1;
        asked += row.substr(0, end - 1) + "\n";
    }
    const Result run = keelctl({"policy", "try", "--batch"}, asked);
    EXPECT_EQ(run.code, kFine) << run.err;
    EXPECT_EQ(run.out, whole);
}

TEST(PolicyTry, columns_go_by_their_names) {
    const Result run =
        batch("note\ttags\tcurrent\tmatch_pre_release\tpolicy\nx\t1.2.4\t1.2.3\ttrue\tpatch\r\n");
    EXPECT_EQ(run.code, kFine) << run.err;
    EXPECT_EQ(run.out,
              "note\ttags\tcurrent\tmatch_pre_release\tpolicy\tverdict\treason\tselected\n"
              "x\t1.2.4\t1.2.3\ttrue\tpatch\troll\tnewer-tag\t1.2.4\n");
}

TEST(PolicyTry, a_dash_leaves_suffixes_as_by_default) {
    const Result run = batch(kHeading + "patch\t-\t1.2.3-ls1\t1.2.4-ls1,1.2.4-ls2\n");
    EXPECT_EQ(run.code, kFine) << run.err;
    EXPECT_NE(run.out.find("roll\tnewer-tag\t1.2.4-ls1\n"), std::string::npos) << run.out;
}

TEST(PolicyTry, a_tag_in_the_place_of_the_image_is_told) {
    for (const char* tag : {"1.2.3", "v8", "3.19-alpine"}) {
        const Result run = keelctl({"policy", "try", "minor", tag, "1.2.4"});
        EXPECT_EQ(run.code, kUnknown);
        EXPECT_NE(run.err.find(std::string(tag) + " names an image; write IMAGE:" + tag),
                  std::string::npos)
            << run.err;
        EXPECT_EQ(run.out, "");
    }
    EXPECT_EQ(keelctl({"policy", "try", "minor", "redis", "1.2.4"}).code, kFine);
    EXPECT_EQ(keelctl({"policy", "try", "minor", "team/1.2.3", "1.2.4"}).code, kFine);
}

TEST(PolicyTry, what_cannot_be_read_is_named_with_its_line) {
    EXPECT_NE(batch("").err.find("line 1"), std::string::npos);
    EXPECT_NE(batch("policy\tcurrent\ttags\n").err.find("\"match_pre_release\""),
              std::string::npos);
    const Result narrow = batch(kHeading + "patch\ttrue\t1.2.3\t1.2.4\npatch\ttrue\t1.2.3\n");
    EXPECT_EQ(narrow.code, kUnknown);
    EXPECT_NE(narrow.err.find("line 3: it has 3 columns"), std::string::npos) << narrow.err;
    EXPECT_NE(narrow.out.find("1.2.4\troll"), std::string::npos) << "what came before is answered";
    const Result odd = batch(kHeading + "patch\tyes\t1.2.3\t1.2.4\n");
    EXPECT_EQ(odd.code, kUnknown);
    EXPECT_NE(odd.err.find("line 2: match_pre_release is \"yes\""), std::string::npos) << odd.err;
}

TEST(PolicyTry, empty_fields_have_their_reasons) {
    const Result run = batch(kHeading +
                             "\ttrue\t1.2.3\t1.2.4\npatch\ttrue\t\t1.2.4\n"
                             "patch\ttrue\t1.2.3\t\n");
    EXPECT_EQ(run.code, kFine) << run.err;
    EXPECT_NE(run.out.find("1.2.4\tignore\tno-policy\t-\n"), std::string::npos) << run.out;
    EXPECT_NE(run.out.find("1.2.4\tignore\tno-tag\t-\n"), std::string::npos) << run.out;
    EXPECT_NE(run.out.find("\tcurrent\tup-to-date\t-\n"), std::string::npos) << run.out;
}

TEST(PolicyTry, one_case_says_verdict_reason_tag_and_a_sentence) {
    const Result run = keelctl({"policy", "try", "minor", "redis:8.0.6", "8.2.1", "9.0.0"});
    EXPECT_EQ(run.code, kFine) << run.err;
    EXPECT_EQ(run.out,
              "roll newer-tag 8.2.1\nminor allows 8.2.1, which is newer than 8.0.6; the newest "
              "there is, 9.0.0, it does not\n");
}

TEST(PolicyTry, any_verdict_is_an_answer) {
    EXPECT_EQ(keelctl({"policy", "try", "Force", "redis:1", "2"}).code, kFine);
    EXPECT_EQ(keelctl({"policy", "try", "never", "redis:1", "2"}).out.substr(0, 13),
              "ignore vetoed");
    const std::string pinned = "redis@sha256:" + std::string(64, 'a');
    EXPECT_EQ(keelctl({"policy", "try", "all", pinned.c_str(), "2"}).out.substr(0, 13),
              "ignore no-tag");
}

TEST(PolicyTry, options_change_the_answer) {
    const std::vector<const char*> ask{"policy",  "try",          "minor",
                                       "x:1.2.3", "1.2.4-alpine", "1.3.0-rc1"};
    EXPECT_EQ(keelctl(ask).out.substr(0, 21), "current beyond-policy");
    auto loose = ask;
    loose.push_back("--match-prerelease=false");
    EXPECT_EQ(keelctl(loose).out.substr(0, 24), "roll newer-tag 1.3.0-rc1");
    EXPECT_EQ(
        keelctl({"policy", "try", "major", "x:1", "2", "3", "--step", "next"}).out.substr(0, 17),
        "roll newer-tag 2\n");
    const Result json = keelctl({"policy", "try", "major", "x:1", "2", "-o", "json"});
    EXPECT_NE(json.out.find(R"("verdict":"roll","reason":"newer-tag","selected":"2")"),
              std::string::npos)
        << json.out;
}

TEST(PolicyTry, wrong_usage_says_so) {
    for (const Result& run :
         {keelctl({"policy", "try"}), keelctl({"policy", "try", "minor"}),
          keelctl({"policy", "try", "minor", "Not A Reference"}),
          keelctl({"policy", "try", "--batch", "minor"}), keelctl({"policy"})}) {
        EXPECT_EQ(run.code, kUnknown);
        EXPECT_FALSE(run.err.empty());
        EXPECT_TRUE(run.out.empty());
    }
}

}  // namespace
}  // namespace keel::ctl
