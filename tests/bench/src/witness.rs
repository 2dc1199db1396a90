//! A witness that cosigns whatever it is asked to: for measuring the log that
//! asks, not for being one.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use gateway::witness::enlisted::Witnesses;
use protocol::cosignature::Cosigner;
use protocol::vkey::KeyName;
use protocol::witness::AddCheckpoint;
use tokio::net::TcpListener;

use crate::Failed;
use crate::log::clock;

/// Starts one; the policy that asks for its cosignature.
///
/// # Errors
/// The machine's.
pub(crate) async fn start() -> Result<Witnesses, Failed> {
    let name = KeyName::new("witness.bench.invalid").ok_or("a key's name")?;
    let cosigner = Arc::new(Cosigner::new(name, &[9; 32]));
    let vkey = cosigner.verifier().vkey().to_string();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/add-checkpoint", post(cosign))
        .with_state(cosigner);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let policy = format!("witness w {vkey} http://{address}\nquorum w\n");
    Ok(Witnesses::parse(policy.as_bytes())?)
}

async fn cosign(State(cosigner): State<Arc<Cosigner>>, body: Bytes) -> (StatusCode, String) {
    let request = AddCheckpoint::parse(&body).ok();
    let text = request.as_ref().and_then(|request| {
        let (text, _) = request.checkpoint.split_once("\n\n")?;
        Some(format!("{text}\n"))
    });
    match text {
        Some(text) => (StatusCode::OK, cosigner.cosign(&text, clock())),
        None => (StatusCode::BAD_REQUEST, String::new()),
    }
}
