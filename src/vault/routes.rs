//! From a request to its answer: who may do what, and which part of the vault does it.

use super::body::BoundedBody;
use super::commit::Committed;
use super::error::{RequestError, blocking};
use super::names::{Kind, ObjectId, Target, What};
use super::read;
use super::receive::{self, Item};
use super::repo::Repo;
use super::server::Vault;
use super::store::StoreError;
use super::tls::Role;
use crate::api::dispatch::{MAX_HEADER_BYTES, parse_dispatch_name};
use axum::body::Body;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use std::fs;
use std::io;
use std::sync::Arc;
use tokio::sync::SemaphorePermit;

type Answer = Result<Response<Body>, RequestError>;

/// Answers one request. Never fails: what goes wrong is the answer.
pub async fn handle(vault: Arc<Vault>, role: Role, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = BoundedBody::new(body, announced, vault.client_timeout);
    let target = Target::parse(parts.uri.path());
    let kind = target.as_ref().map_or("none", |target| target.what.label());
    let answer = match target {
        Some(target) => act(&vault, role, &parts, target, &mut body).await,
        None => Err(RequestError::Bad("no such address in a vault".to_owned())),
    };
    vault.metrics.received.inc_by(body.received());
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            log(&error, role, &parts);
            body.drain().await;
            error.response()
        }
    };
    vault.metrics.request(role.as_str(), &parts.method, kind, response.status());
    response
}

fn log(error: &RequestError, role: Role, parts: &Parts) {
    let (role, method, path) = (role.as_str(), parts.method.as_str(), parts.uri.path());
    let status = error.status();
    let text = crate::cli::chain(error);
    if status.is_server_error() {
        tracing::error!(role, method, path, status = status.as_u16(), error = text, "request failed");
    } else if status == StatusCode::NOT_FOUND {
        tracing::debug!(role, method, path, error = text, "not found");
    } else {
        tracing::warn!(role, method, path, status = status.as_u16(), error = text, "request refused");
    }
}

/// What a role may do; the whole of the vault's access rules.
fn permit(role: Role, method: &Method, what: &What) -> Result<(), RequestError> {
    let lock = matches!(what, What::Object(Kind::Locks, _));
    let allowed = match *method {
        Method::GET | Method::HEAD => true,
        Method::POST => role == Role::Home || lock,
        // Append-only, for everybody: whoever holds home's certificate must not be able to destroy
        // the copy.
        Method::DELETE => lock,
        _ => return Err(RequestError::Method),
    };
    if allowed {
        return Ok(());
    }
    let text = if *method == Method::DELETE {
        "this vault is append-only: nothing but a lock can be deleted".to_owned()
    } else {
        format!("the role {} may write nothing but locks", role.as_str())
    };
    Err(RequestError::Forbidden(text))
}

async fn act(
    vault: &Arc<Vault>,
    role: Role,
    parts: &Parts,
    target: Target,
    body: &mut BoundedBody,
) -> Answer {
    permit(role, &parts.method, &target.what)?;
    let method = &parts.method;
    if *method == Method::POST && !vault.repositories.allows(&target.repo) {
        let text = format!("{} is not among this vault's repositories", target.repo);
        return Err(RequestError::Forbidden(text));
    }
    if *method == Method::POST && target.what == What::Root {
        return create(vault, parts, &target).await;
    }
    let repo = vault.committer.store.repo(&target.repo);
    if target.what == What::Status && (*method == Method::GET || *method == Method::HEAD) {
        return status(vault, target.repo.as_str(), repo).await;
    }
    let repo = repo.ok_or(RequestError::NotFound("no such repository; create it first"))?;
    match *method {
        Method::GET | Method::HEAD => get(vault, &repo, parts, target.what).await,
        Method::POST => post(vault, &repo, target.what, body).await,
        Method::DELETE => match target.what {
            What::Object(Kind::Locks, id) => delete_lock(&repo, id).await,
            _ => Err(RequestError::Method),
        },
        _ => Err(RequestError::Method),
    }
}

async fn create(vault: &Arc<Vault>, parts: &Parts, target: &Target) -> Answer {
    let wanted = parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "create=true"));
    if !wanted {
        return Err(RequestError::Bad("POST here takes ?create=true".to_owned()));
    }
    let (store, name) = (Arc::clone(&vault.committer.store), target.repo.clone());
    blocking(move || match store.create(&name) {
        Ok(_) => Ok(empty()),
        Err(error @ (StoreError::TooMany | StoreError::InUse(_))) => {
            Err(RequestError::Full(error.to_string()))
        }
        Err(StoreError::Io { doing, source, .. }) => Err(RequestError::Io { doing, source }),
    })
    .await
}

async fn get(vault: &Arc<Vault>, repo: &Arc<Repo>, parts: &Parts, what: What) -> Answer {
    let head = parts.method == Method::HEAD;
    let path = match what {
        // `act` answered the status already.
        What::Root | What::Status => return Err(RequestError::Method),
        What::List(kind) => {
            let is_id = |name: &str| ObjectId::parse(name).is_some();
            return list(vault, repo.folders(kind), parts, is_id).await;
        }
        What::Dispatches => {
            let is_sequence = |name: &str| parse_dispatch_name(name).is_some();
            return list(vault, vec![repo.dispatches()], parts, is_sequence).await;
        }
        What::Config => repo.config(),
        What::Object(kind, id) => repo.object(kind, &id),
        What::Dispatch(sequence) => repo.dispatch(sequence),
    };
    read::send(&path, &parts.headers, head).await
}

async fn list(
    vault: &Arc<Vault>,
    folders: Vec<std::path::PathBuf>,
    parts: &Parts,
    accept: fn(&str) -> bool,
) -> Answer {
    let lists = Arc::clone(&vault.lists);
    let place = lists.acquire_owned().await.map_err(closing)?;
    Ok(super::list::send(folders, &parts.headers, accept, place))
}

async fn post(vault: &Arc<Vault>, repo: &Arc<Repo>, what: What, body: &mut BoundedBody) -> Answer {
    let quota = vault.quotas.get(repo.name.as_str());
    let store = &vault.committer.store;
    let item = match what {
        What::Dispatch(sequence) => return commit(vault, repo, sequence, quota, body).await,
        What::Config => Item::Config,
        What::Object(kind, id) => Item::Object(kind, id),
        What::Root | What::List(_) | What::Dispatches | What::Status => return Err(RequestError::Method),
    };
    let _place = match &item {
        // Locks and keys are small and must not queue behind packs: the embassy's readers need them.
        Item::Config | Item::Object(Kind::Locks | Kind::Keys, _) => None,
        Item::Object(..) => Some(upload_place(vault).await?),
    };
    receive::receive(store, repo, item, quota, body).await?;
    Ok(empty())
}

async fn commit(
    vault: &Arc<Vault>,
    repo: &Arc<Repo>,
    sequence: u64,
    quota: Option<u64>,
    body: &mut BoundedBody,
) -> Answer {
    let _place = upload_place(vault).await?;
    let bytes = body.collect(u64::try_from(MAX_HEADER_BYTES).unwrap_or(u64::MAX)).await?;
    let (committer, repo) = (Arc::clone(&vault.committer), Arc::clone(repo));
    // A task of its own: a client that hangs up drops this request's future, and the lock must not
    // be given up while the disk still works on the commit.
    let task = tokio::spawn(async move { committer.commit(&repo, sequence, bytes, quota).await });
    let outcome = task.await.map_err(RequestError::Task)?;
    vault.metrics.commit(match &outcome {
        Ok(Committed::New) => "Committed",
        Ok(Committed::Again) => "Again",
        Err(RequestError::Refused { reason, .. }) => reason.as_str(),
        Err(_) => "Error",
    });
    outcome.map(|_| empty())
}

async fn upload_place(vault: &Vault) -> Result<SemaphorePermit<'_>, RequestError> {
    vault.uploads.acquire().await.map_err(closing)
}

fn closing(error: tokio::sync::AcquireError) -> RequestError {
    RequestError::io("find a place")(io::Error::other(error))
}

async fn delete_lock(repo: &Arc<Repo>, id: ObjectId) -> Answer {
    let path = repo.object(Kind::Locks, &id);
    blocking(move || match fs::remove_file(&path) {
        Ok(()) => Ok(empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(RequestError::NotFound("no such object"))
        }
        Err(error) => Err(RequestError::io("delete a lock")(error)),
    })
    .await
}

/// `GET /<repo>/status`. Waits for a commit in flight, see [`super::commit::Committer::settled`].
async fn status(vault: &Arc<Vault>, name: &str, repo: Option<Arc<Repo>>) -> Answer {
    let store = Arc::clone(&vault.committer.store);
    let space = blocking(move || store.space().map_err(RequestError::io("look at the disk"))).await?;
    let (mut used, mut last, mut mark, mut there) = (0, None, 0, false);
    if let Some(repo) = repo {
        let chain = vault.committer.settled(&repo).await?;
        (last, mark) = (chain.last, chain.epoch_mark);
        used = repo.usage.used();
        let config = repo.config();
        there =
            blocking(move || config.try_exists().map_err(RequestError::io("look for the config"))).await?;
    }
    let json = serde_json::json!({
        "repository": there,
        "used": used,
        "quota": vault.quotas.get(name),
        "free": space.free,
        "fsTotal": space.total,
        "lastSequence": last.as_ref().map(|last| last.sequence),
        "lastHeader": last.as_ref().map(|last| &last.hash),
        "epochMark": mark,
    });
    let mut response = Response::new(Body::from(json.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn empty() -> Response<Body> {
    Response::new(Body::empty())
}
