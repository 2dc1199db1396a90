//! How the witnesses fare.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::witness::enlisted::Enlisted;
use crate::witness::roster::Standing;

/// Who is asked to cosign checkpoints.
#[derive(Serialize, ToSchema)]
pub(super) struct Witnesses {
    /// The size of the newest published checkpoint.
    size: u64,
    /// Whether it has the policy's quorum: false once that was waited for in
    /// vain; null without a policy.
    quorum: Option<bool>,
    /// In the policy's order.
    witnesses: Vec<Witness>,
}

/// One witness.
#[derive(Serialize, ToSchema)]
pub(super) struct Witness {
    /// Its name in the policy.
    name: String,
    /// Its verifier key.
    vkey: String,
    /// Its submission prefix.
    url: String,
    /// `waiting` (nothing is known yet, or another gateway asks it),
    /// `cosigning`, `failing` or `alarm` (its answer contradicts this log).
    state: &'static str,
    /// The size of the checkpoint that it cosigned last.
    size: Option<u64>,
    /// When it did, by its clock, in seconds since 1970.
    time: Option<u64>,
    /// Why its last answer brought no cosignature.
    problem: Option<String>,
}

/// Who is asked to cosign checkpoints, and how that goes.
#[utoipa::path(get, path = "/api/witnesses", responses((status = 200, body = Witnesses)))]
pub(super) async fn witnesses(State(api): State<Arc<Api>>) -> Json<Witnesses> {
    let roster = api.witnesses.as_ref();
    let list = roster.map(|roster| roster.list().map(witness).collect());
    Json(Witnesses {
        size: api.published.borrow().checkpoint.size().get(),
        quorum: roster.map(|roster| roster.has_quorum()),
        witnesses: list.unwrap_or_default(),
    })
}

fn witness((enlisted, standing): (&Enlisted, Standing)) -> Witness {
    Witness {
        name: enlisted.name.clone(),
        vkey: enlisted.key.to_string(),
        url: enlisted.url.clone(),
        state: standing.state.as_str(),
        size: standing.size.map(|size| size.get()),
        time: standing.time.map(|time| time.secs()),
        problem: standing.problem,
    }
}
