// /v1/approvals, with Keel's paths and fields: what waits for votes, and the votes.
#pragma once

#include "keeld/api/server.h"
#include "keeld/clock.h"
#include "keeld/json.h"
#include "keeld/loop.h"
#include "keeld/rollout/approvals.h"

namespace keel {

class ApprovalsApi {
  public:
    ApprovalsApi(Approvals& approvals, const Clock& clock) : approvals_(approvals), clock_(clock) {}

    // GET: a JSON array, newest first, the archived ones as well.
    // POST {"id", "identifier", "action": "approve" | "reject" | "delete" | "archive", "reason"}:
    // the approval as it is then; null after delete. The voter is who asks, on a unix socket: a
    // "voter" in the body is ignored, and "note" says so.
    // PUT {"identifier": "deployment/NAMESPACE/NAME", "provider": "kubernetes", "votesRequired"}.
    // 400 for what is not a request, 403 elsewhere than on a unix socket, 404 for what was never
    // asked for, 409 where it is not done.
    [[nodiscard]] Task<ApiResponse> handle(ApiRequest request);

  private:
    [[nodiscard]] ApiResponse list() const;
    Task<ApiResponse> vote(ApiRequest request);
    Task<ApiResponse> demand(ApiRequest request);

    Approvals& approvals_;
    const Clock& clock_;
};

}  // namespace keel
