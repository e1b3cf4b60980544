//! A storage that does as a script says: loses answers, fails, or answers late.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast_core::step::{Batch, Outcome};
use steadfast_core::storage::{ClaimRequest, Claimed, ErrorKind, Query, View};
use steadfast_core::wake::Hints;
use steadfast_core::{Error, Storage};
use steadfast_sim::storage::SimStorage;

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Fine,
    /// It is carried out, and nobody hears of it.
    LoseAnswer,
    /// Nothing happens.
    Fail(ErrorKind),
    /// It is carried out this much later.
    Late(Duration),
    /// It is carried out, and answered this much later.
    LateAnswer(Duration),
}

/// A call.
#[derive(Debug)]
pub(crate) enum Call<'a> {
    Claim,
    Apply(&'a [Batch]),
    Read(&'a Query),
}

type Script = Arc<Mutex<dyn FnMut(Call<'_>) -> Deed + Send>>;

#[derive(Clone)]
pub(crate) struct Wrapped {
    inner: SimStorage,
    script: Script,
}

impl Wrapped {
    pub(crate) fn new(inner: SimStorage, script: impl FnMut(Call<'_>) -> Deed + Send + 'static) -> Self {
        Self { inner, script: Arc::new(Mutex::new(script)) }
    }

    async fn meet<T>(
        &self,
        call: Call<'_>,
        doing: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let deed = (self.script.lock().expect("not poisoned"))(call);
        match deed {
            Deed::Fine => doing.await,
            Deed::LoseAnswer => {
                let _ = doing.await;
                Err(Error::new(ErrorKind::Unknown, "scripted: the answer is lost"))
            }
            Deed::Fail(kind) => Err(Error::new(kind, "scripted")),
            Deed::Late(time) => {
                tokio::time::sleep(time).await;
                doing.await
            }
            Deed::LateAnswer(time) => {
                let answer = doing.await;
                tokio::time::sleep(time).await;
                answer
            }
        }
    }
}

impl Storage for Wrapped {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        self.meet(Call::Claim, self.inner.claim(request)).await
    }

    async fn apply(&self, batches: &[Batch]) -> Result<Vec<Outcome>, Error> {
        self.meet(Call::Apply(batches), self.inner.apply(batches)).await
    }

    async fn read(&self, query: &Query) -> Result<View, Error> {
        self.meet(Call::Read(query), self.inner.read(query)).await
    }

    fn hints(&self) -> Hints {
        self.inner.hints()
    }
}
