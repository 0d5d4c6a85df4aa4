//! The forecast on disk, so that a restart is no cold start.

use std::path::{Path, PathBuf};

use duosuan_policy::{Millis, State};
use serde::{Deserialize, Serialize};

/// A forecast older than this, milliseconds, is of another time: six half-lives.
const STALE: Millis = 6 * 3_600_000;

#[derive(Deserialize)]
struct Stored {
    at: Millis,
    state: State,
}

#[derive(Serialize)]
struct Storing<'a> {
    at: Millis,
    state: &'a State,
}

/// Where the forecast lies: beside the journal.
pub fn beside(journal: &Path) -> PathBuf {
    let mut name = journal.file_name().unwrap_or_default().to_owned();
    name.push(".forecast");
    journal.with_file_name(name)
}

/// The forecast that was stored, or a fresh one if there is none that can be used.
pub fn load(path: &Path, now: Millis) -> State {
    let Ok(text) = std::fs::read(path) else {
        return State::default();
    };
    match serde_json::from_slice::<Stored>(&text) {
        // One from the future is of a clock that was set back: its times would never come.
        Ok(stored) if stored.at <= now && now - stored.at < STALE => stored.state,
        Ok(_) => State::default(),
        Err(error) => {
            tracing::warn!(
                "the forecast in {} cannot be read, beginning anew: {error}",
                path.display()
            );
            State::default()
        }
    }
}

/// Stores the forecast; a failure costs a cold start at worst, so it is only logged.
pub fn save(path: &Path, state: &State, now: Millis) {
    let next = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        std::fs::write(&next, serde_json::to_vec(&Storing { at: now, state })?)?;
        std::fs::rename(&next, path)
    };
    if let Err(error) = write() {
        tracing::warn!("the forecast cannot be stored in {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_forecast_is_found_again_unless_it_is_old_broken_or_from_the_future() {
        let dir = tempfile::tempdir().unwrap();
        let path = beside(&dir.path().join("journal"));
        let mut state = State::default();
        let policy = duosuan_policy::Policy::default();
        let seen = duosuan_policy::Observation {
            complete: true,
            ..Default::default()
        };
        duosuan_policy::decide(&policy, &Default::default(), &seen, &mut state, 1_000);
        save(&path, &state, 10_000);
        let fresh = State::default();
        let stored = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::to_string(&load(&path, 20_000)).unwrap(), stored);
        assert_eq!(load(&path, 9_999), fresh);
        assert_eq!(load(&path, 10_000 + STALE), fresh);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(load(&path, 20_000), fresh);
    }

    /// Written before pods had pasts and buckets were stored sparsely: a use of 2 in each of 500 samples, and an eviction.
    #[test]
    fn a_forecast_that_an_agent_before_pods_had_pasts_stored_keeps_its_samples_and_the_node_closed() {
        let forecast = r#"{"histogram":{"buckets":[0,0,524288000],"aged":9000,"samples":500},"variance":0,"last":2}"#;
        let forecasts = format!(r#"{{"prod":{forecast},"mid":{forecast},"system":{forecast}}}"#);
        let text = format!(
            r#"{{"at":10000,"state":{{"cpu":{forecasts},"memory":{forecasts},
            "cpu_offer":{{"value":700,"base":[600,8000],"good":[700,9000]}},"memory_offer":{{"value":0,"base":null,"good":null}},
            "first_seen":{{"kubepods/pod1":1000}},"eviction":{{"closed_until":600000,"last":[]}}}}}}"#
        );
        let dir = tempfile::tempdir().unwrap();
        let path = beside(&dir.path().join("journal"));
        std::fs::write(&path, text).unwrap();
        let read = serde_json::to_value(load(&path, 20_000)).unwrap();
        for of in ["/cpu/prod", "/cpu/mid", "/cpu/system", "/memory/prod"] {
            let histogram = serde_json::json!({"buckets": [[2, 524_288_000]], "aged": 9000, "samples": 500});
            assert_eq!(read.pointer(&format!("{of}/histogram")), Some(&histogram), "{of}");
        }
        assert_eq!(read.pointer("/cpu_offer/value"), Some(&700.into()));
        assert_eq!(read.pointer("/eviction/closed_until"), Some(&600_000.into()));
    }
}
