//! Sums: statistics, models, leaderboards, users, wallets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use protocol::record::Source;
use serde::{Deserialize, Serialize};
use time::{Date, Duration, Month};
use utoipa::{IntoParams, ToSchema};

use super::records::parse_key_id;
use super::{Api, limit, query};
use crate::ledger::{self, By, Category, Scope, Sort, Who, Window};
use crate::reply::{ApiError, ErrorBody};

/// Sums over usage entries; counts that an entry does not have are 0.
#[derive(Serialize, ToSchema)]
pub(super) struct Sums {
    /// Usage entries.
    records: u64,
    /// Prompt tokens, cached ones included.
    input: u64,
    /// Of these read from a cache.
    cache_read: u64,
    /// Of these written to a cache.
    cache_write: u64,
    /// Generated tokens, reasoning included.
    output: u64,
    /// Of these reasoning.
    reasoning: u64,
    /// `input` + `output`.
    total: u64,
}

/// Sums of one source. Sources are never added.
#[derive(Serialize, ToSchema)]
pub(super) struct SourceSums {
    /// How the records were observed: `proxy` or `custom`.
    source: &'static str,
    #[serde(flatten)]
    sums: Sums,
}

/// Sums of one model.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelSums {
    /// How the records were observed.
    source: &'static str,
    /// The provider's name.
    provider: String,
    /// The model; null where the answers named none.
    model: Option<String>,
    #[serde(flatten)]
    sums: Sums,
}

/// The log as a whole.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    /// The log's size.
    size: u64,
    /// Usage entries.
    records: u64,
    /// Distinct key ids.
    users: u64,
    /// Distinct pairs of provider and model.
    models: u64,
    /// Distinct wallets.
    wallets: u64,
    /// Sums by source.
    sources: Vec<SourceSums>,
    /// Usage entries by outcome.
    outcomes: BTreeMap<&'static str, u64>,
}

/// The log as a whole.
#[utoipa::path(get, path = "/api/stats", responses((status = 200, body = Stats)))]
pub(super) async fn stats(State(api): State<Arc<Api>>) -> Json<Stats> {
    let (size, stats) = {
        let sums = api.sums.read();
        (sums.size(), sums.stats())
    };
    let outcomes = stats.outcomes.into_iter();
    let outcomes: BTreeMap<_, _> = outcomes.map(|(o, records)| (o.as_str(), records)).collect();
    Json(Stats {
        size: size.get(),
        records: outcomes.values().sum(),
        users: stats.users,
        models: stats.models,
        wallets: stats.wallets,
        sources: source_sums(stats.sources),
        outcomes,
    })
}

/// Over which days.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Days {
    /// The last so many UTC days, today included: 1 to 366; ever if not given.
    days: Option<u32>,
}

/// What each model was used.
#[derive(Serialize, ToSchema)]
pub(super) struct Models {
    /// The log's size.
    size: u64,
    /// The first UTC day, YYYY-MM-DD, if there is a window.
    from: Option<String>,
    /// The last.
    to: Option<String>,
    /// By total, descending.
    models: Vec<ModelSums>,
}

/// What each model was used.
#[utoipa::path(get, path = "/api/models", params(Days), responses(
    (status = 200, body = Models), (status = 400, body = ErrorBody)))]
pub(super) async fn models(
    State(api): State<Arc<Api>>,
    days: Result<Query<Days>, QueryRejection>,
) -> Result<Json<Models>, ApiError> {
    let days = checked(query(days)?.days)?;
    let today = api.today();
    let (size, window, models) = {
        let sums = api.sums.read();
        let window = days.map(|days| sums.window(days, today));
        (sums.size(), window, sums.models(window))
    };
    let (from, to) = dates(window);
    Ok(Json(Models {
        size: size.get(),
        from,
        to,
        models: model_sums(models),
    }))
}

/// Which part of a leaderboard.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Board {
    /// The last so many UTC days, today included: 1 to 366; ever if not given.
    days: Option<u32>,
    /// At most so many rows: 1 to 1,000, 50 if not given.
    limit: Option<u32>,
    /// `proxy`, if not given, or `custom`.
    source: Option<String>,
    /// Who is ranked: `key`, if not given, or `wallet`.
    by: Option<String>,
    /// `total`, if not given, `input`, `output`, `models` (not with `days`, nor
    /// of one model) or `days` (not of one model or provider).
    sort: Option<String>,
}

/// Which part of a model's leaderboard.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ModelBoard {
    /// The model's name.
    model: String,
    /// At most so many rows: 1 to 1,000, 50 if not given.
    limit: Option<u32>,
    /// `proxy`, if not given, or `custom`.
    source: Option<String>,
    /// Who is ranked: `key`, if not given, or `wallet`.
    by: Option<String>,
    /// `total`, if not given, `input`, `output`, `models` (not with `days`, nor
    /// of one model) or `days` (not of one model or provider).
    sort: Option<String>,
}

/// Which part of a provider's leaderboard.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ProviderBoard {
    /// The provider's name.
    provider: String,
    /// At most so many rows: 1 to 1,000, 50 if not given.
    limit: Option<u32>,
    /// `proxy`, if not given, or `custom`.
    source: Option<String>,
    /// Who is ranked: `key`, if not given, or `wallet`.
    by: Option<String>,
    /// `total`, if not given, `input`, `output` or `models`.
    sort: Option<String>,
}

/// A leaderboard.
#[derive(Serialize, ToSchema)]
pub(super) struct Leaderboard {
    /// The log's size.
    size: u64,
    /// The first UTC day, YYYY-MM-DD, if there is a window.
    from: Option<String>,
    /// The last.
    to: Option<String>,
    /// How the records were observed.
    source: &'static str,
    /// Who is ranked.
    by: &'static str,
    /// By what, descending, then by total.
    sort: &'static str,
    /// In this order.
    rows: Vec<Leader>,
}

/// A model's leaderboard.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelLeaderboard {
    /// The log's size.
    size: u64,
    /// The model's name.
    model: String,
    /// How the records were observed.
    source: &'static str,
    /// Who is ranked.
    by: &'static str,
    /// By what, descending, then by total.
    sort: &'static str,
    /// In this order.
    rows: Vec<Leader>,
}

/// A provider's leaderboard.
#[derive(Serialize, ToSchema)]
pub(super) struct ProviderLeaderboard {
    /// The log's size.
    size: u64,
    /// The provider's name.
    provider: String,
    /// How the records were observed.
    source: &'static str,
    /// Who is ranked.
    by: &'static str,
    /// By what, descending, then by total.
    sort: &'static str,
    /// In this order.
    rows: Vec<Leader>,
}

/// A row of a leaderboard.
#[derive(Serialize, ToSchema)]
pub(super) struct Leader {
    /// Whose credential or link token it is, where key ids are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// The wallet, where wallets are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet: Option<String>,
    /// Distinct pairs of provider and model; null within days or of one model.
    models: Option<u64>,
    /// Distinct UTC days with a record; null of one model or provider.
    days: Option<u64>,
    #[serde(flatten)]
    sums: Sums,
}

/// Who used most.
#[utoipa::path(get, path = "/api/leaderboard", params(Board), responses(
    (status = 200, body = Leaderboard), (status = 400, body = ErrorBody)))]
pub(super) async fn leaderboard(
    State(api): State<Arc<Api>>,
    board: Result<Query<Board>, QueryRejection>,
) -> Result<Json<Leaderboard>, ApiError> {
    let board = query(board)?;
    let (days, source) = (checked(board.days)?, source(board.source.as_deref())?);
    let (by, sort) = order(board.by.as_deref(), board.sort.as_deref())?;
    let (limit, today) = (limit(board.limit, 50)?, api.today());
    let (size, window, leaders) = {
        let mut sums = api.sums.write();
        let window = days.map(|days| sums.window(days, today));
        let scope = window.map_or(Scope::Ever, Scope::Within);
        let board = ledger::Board { by, source, scope };
        let leaders = leaders(&mut sums, &board, sort, limit)?;
        (sums.size(), window, leaders)
    };
    let (from, to) = dates(window);
    Ok(Json(Leaderboard {
        size: size.get(),
        from,
        to,
        source: source.as_str(),
        by: by.as_str(),
        sort: sort.as_str(),
        rows: rows(leaders),
    }))
}

/// Who used most of one model.
#[utoipa::path(get, path = "/api/leaderboard/model", params(ModelBoard), responses(
    (status = 200, body = ModelLeaderboard), (status = 400, body = ErrorBody)))]
pub(super) async fn model_leaderboard(
    State(api): State<Arc<Api>>,
    board: Result<Query<ModelBoard>, QueryRejection>,
) -> Result<Json<ModelLeaderboard>, ApiError> {
    let asked = query(board)?;
    let source = source(asked.source.as_deref())?;
    let (by, sort) = order(asked.by.as_deref(), asked.sort.as_deref())?;
    let limit = limit(asked.limit, 50)?;
    let scope = Scope::Model(asked.model.clone());
    let board = ledger::Board { by, source, scope };
    let (size, leaders) = {
        let mut sums = api.sums.write();
        (sums.size(), leaders(&mut sums, &board, sort, limit)?)
    };
    Ok(Json(ModelLeaderboard {
        size: size.get(),
        model: asked.model,
        source: source.as_str(),
        by: by.as_str(),
        sort: sort.as_str(),
        rows: rows(leaders),
    }))
}

/// Who used most of one provider.
#[utoipa::path(get, path = "/api/leaderboard/provider", params(ProviderBoard), responses(
    (status = 200, body = ProviderLeaderboard), (status = 400, body = ErrorBody)))]
pub(super) async fn provider_leaderboard(
    State(api): State<Arc<Api>>,
    board: Result<Query<ProviderBoard>, QueryRejection>,
) -> Result<Json<ProviderLeaderboard>, ApiError> {
    let asked = query(board)?;
    let source = source(asked.source.as_deref())?;
    let (by, sort) = order(asked.by.as_deref(), asked.sort.as_deref())?;
    let limit = limit(asked.limit, 50)?;
    let scope = Scope::Provider(asked.provider.clone());
    let board = ledger::Board { by, source, scope };
    let (size, leaders) = {
        let mut sums = api.sums.write();
        (sums.size(), leaders(&mut sums, &board, sort, limit)?)
    };
    Ok(Json(ProviderLeaderboard {
        size: size.get(),
        provider: asked.provider,
        source: source.as_str(),
        by: by.as_str(),
        sort: sort.as_str(),
        rows: rows(leaders),
    }))
}

/// What a key id used.
#[derive(Serialize, ToSchema)]
pub(super) struct User {
    /// The log's size.
    size: u64,
    /// Whose credential or link token it is.
    key_id: String,
    /// Sums by source.
    sources: Vec<SourceSums>,
    /// Sums by source, provider and model.
    models: Vec<ModelSums>,
}

/// What a key id used.
#[utoipa::path(get, path = "/api/user/{key_id}",
    params(("key_id" = String, Path, description = "64 hex digits")),
    responses((status = 200, body = User), (status = 400, body = ErrorBody)))]
pub(super) async fn user(
    State(api): State<Arc<Api>>,
    Path(key_id): Path<String>,
) -> Result<Json<User>, ApiError> {
    let key = parse_key_id(&key_id)?;
    let (size, (sources, models)) = {
        let sums = api.sums.read();
        (sums.size(), sums.user(&key))
    };
    let (sources, models) = (source_sums(sources), model_sums(models));
    Ok(Json(User {
        size: size.get(),
        key_id,
        sources,
        models,
    }))
}

fn checked(days: Option<u32>) -> Result<Option<u32>, ApiError> {
    if days.is_some_and(|days| !(1..=366).contains(&days)) {
        return Err(ApiError::bad_request("days is 1 to 366"));
    }
    Ok(days)
}

fn source(given: Option<&str>) -> Result<Source, ApiError> {
    let source = Source::parse(given.unwrap_or("proxy"));
    source.ok_or_else(|| ApiError::bad_request("source is proxy or custom"))
}

fn order(by: Option<&str>, sort: Option<&str>) -> Result<(By, Sort), ApiError> {
    let by = By::parse(by.unwrap_or("key"));
    let sort = Sort::parse(sort.unwrap_or("total"));
    Ok((
        by.ok_or_else(|| ApiError::bad_request("by is key or wallet"))?,
        sort.ok_or_else(|| ApiError::bad_request("sort is total, input, output, models or days"))?,
    ))
}

/// The first rows of a board, if it tells what they are to be sorted by.
fn leaders(
    sums: &mut ledger::Ledger,
    board: &ledger::Board,
    sort: Sort,
    limit: u32,
) -> Result<Vec<ledger::Leader>, ApiError> {
    if !sort.fits(&board.scope) {
        let message = "models are told over all time, of all or one provider; active days of all";
        return Err(ApiError::bad_request(message));
    }
    Ok(sums.leaders(board, sort, limit as usize))
}

fn dates(window: Option<Window>) -> (Option<String>, Option<String>) {
    (window.map(|w| date(w.from)), window.map(|w| date(w.to)))
}

/// YYYY-MM-DD.
pub(super) fn date(day: u64) -> String {
    let epoch = Date::from_calendar_date(1970, Month::January, 1).expect("a date");
    let day = i64::try_from(day).ok().map(Duration::days);
    let date = day
        .and_then(|day| epoch.checked_add(day))
        .unwrap_or(Date::MAX);
    format!(
        "{:04}-{:02}-{:02}",
        date.year(),
        u8::from(date.month()),
        date.day()
    )
}

fn rows(leaders: Vec<ledger::Leader>) -> Vec<Leader> {
    let row = |leader: ledger::Leader| {
        let (key_id, wallet) = match leader.who {
            Who::Key(key_id) => (Some(key_id.to_string()), None),
            Who::Wallet(wallet) => (None, Some(wallet.to_string())),
        };
        Leader {
            key_id,
            wallet,
            models: leader.models,
            days: leader.days,
            sums: leader.sums.into(),
        }
    };
    leaders.into_iter().map(row).collect()
}

pub(super) fn source_sums(sums: Vec<(Source, ledger::Sums)>) -> Vec<SourceSums> {
    let row = |(source, sums): (Source, ledger::Sums)| SourceSums {
        source: source.as_str(),
        sums: sums.into(),
    };
    sums.into_iter().map(row).collect()
}

pub(super) fn model_sums(models: Vec<(Category, ledger::Sums)>) -> Vec<ModelSums> {
    let row = |(category, sums): (Category, ledger::Sums)| ModelSums {
        source: category.source.as_str(),
        provider: category.provider.to_string(),
        model: category.model.map(|model| model.to_string()),
        sums: sums.into(),
    };
    models.into_iter().map(row).collect()
}

impl From<ledger::Sums> for Sums {
    fn from(sums: ledger::Sums) -> Self {
        let total = sums.total();
        let ledger::Sums {
            records,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        } = sums;
        Self {
            records,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
            total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (day, text) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (20_779, "2026-11-22"),
        ] {
            assert_eq!(date(day), text);
        }
    }
}
