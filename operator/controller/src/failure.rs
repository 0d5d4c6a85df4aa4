//! What a failed request means for the one who made it.

use std::time::Duration;

use kube::core::Status;

/// Kinds of failure, by what there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object is not there.
    Gone,
    /// The object is not as the request expects it.
    Conflict(String),
    /// A disruption budget does not allow it now.
    Budget(String),
    /// It may go well if tried again: too many requests, an error of the server, no answer.
    Transient(String),
    /// Trying again changes nothing.
    Refused(String),
}

impl Failure {
    /// What the server said, for people.
    pub fn message(self) -> String {
        match self {
            Self::Gone => "it is gone".to_owned(),
            Self::Conflict(m) | Self::Budget(m) | Self::Transient(m) | Self::Refused(m) => m,
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            kube::Error::SerdeError(e) => Self::Refused(format!("the answer cannot be understood: {e}")),
            kube::Error::BuildRequest(e) => Self::Refused(e.to_string()),
            other => Self::Transient(other.to_string()),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = if status.message.is_empty() {
            status.reason.clone()
        } else {
            status.message.clone()
        };
        match status.code {
            404 => Self::Gone,
            409 => Self::Conflict(message),
            429 if of_a_budget(&status) => Self::Budget(message),
            429 | 500.. => Self::Transient(message),
            // A request that the server did not get whole in time.
            408 => Self::Transient(message),
            _ => Self::Refused(message),
        }
    }
}

/// The eviction API answers 429 for a disruption budget, and names it as the cause; priority and fairness also
/// answers 429, and there trying again helps.
fn of_a_budget(status: &Status) -> bool {
    status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == "DisruptionBudget")
}

/// How often a request is tried, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries, the first included.
    pub tries: u32,
    /// Pause after the first failure; each further one is four times as long.
    pub first_pause: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        // Pauses of 0.1 + 0.4 + 1.6 s.
        Self {
            tries: 4,
            first_pause: Duration::from_millis(100),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// Tries a request until it succeeds, or fails for good, or has been tried often enough.
    ///
    /// # Errors
    ///
    /// The last failure.
    pub async fn run<T, F: Future<Output = Result<T, kube::Error>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let mut pause = self.first_pause;
        let mut tried = 1;
        loop {
            let failure = match tokio::time::timeout(self.timeout, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::from(error),
                Err(_) => Failure::Transient(format!("no answer within {} s", self.timeout.as_secs())),
            };
            if tried >= self.tries || !matches!(failure, Failure::Transient(_)) {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(4);
            tried = tried.saturating_add(1);
        }
    }
}
