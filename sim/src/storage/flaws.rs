//! Deliberate faults in what ships: a specimen is the storage with one guard missing in its plans, or the engine with one
//! of its decisions altered where its steps enter the store, or a process that makes too much of the store's answers. The
//! simulator must find each; the correct ones have none.

macro_rules! flaws {
    ($($flaw:ident $name:literal $about:literal)*) => {
        /// One altered plan or decision.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Flaw {
            $(#[doc = $about] $flaw,)*
        }

        impl Flaw {
            /// All of them.
            pub const ALL: &[Flaw] = &[$(Flaw::$flaw),*];

            /// Its name on the command line and in tables.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Flaw::$flaw => $name,)*
                }
            }

            /// What is wrong, in a sentence.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Flaw::$flaw => $about,)*
                }
            }
        }
    };
}

flaws! {
    UnfencedTransition "unfenced-transition" "Settling doesn't compare the fence."
    UnfencedReport "unfenced-report" "A report doesn't compare the fence."
    FenceResetOnRelease "fence-reset-on-release" "A task that is given back begins with fence 0 again."
    ClaimWithoutLock "claim-without-lock" "A claim chooses its tasks in a subselect that doesn't lock them."
    UncheckedLeaseOnReclaim "unchecked-lease-on-reclaim" "A rescue doesn't check again that the lease has lapsed."
    LeaseByWorkersClock "lease-by-workers-clock" "Whether a lease has lapsed is judged by the clock of whoever asks."
    DeadlineByWorkersClock "deadline-by-workers-clock"
        "A worker that stops an attempt at its deadline records that end by its own clock."
    RescueOverwritesEnd "rescue-overwrites-end" "A rescue judges the state that it has read, not the one that it finds."
    CancelOverwritesEnd "cancel-overwrites-end"
        "A cancel of what was read as running ends it, in whatever state it is found."
    CancelForgotten "cancel-forgotten" "A running task's cancel is acknowledged and not recorded."
    RetryIgnoresCancel "retry-ignores-cancel" "A retry ignores that somebody asked to cancel."
    RetryWithoutBackoff "retry-without-backoff" "An attempt that went wrong is followed by another at once."
    ErrorAsSuccess "error-as-success" "A handler's error is recorded as success."
    PanicAsSuccess "panic-as-success" "A handler's panic is swallowed: the attempt counts as done."
    RenewalsBehindHandlers "renewals-behind-handlers"
        "Renewals are sent by the thread that handlers keep busy."
    DrainForgetsClaimed "drain-forgets-claimed" "A drained worker doesn't give back what it has claimed."
    PromotionKeepsRevision "promotion-keeps-revision" "A task that becomes due is made ready without a new revision."
    RepeatedEndIsWritten "repeated-end-is-written" "An end that is sent again is written again."
    NoShareLockOnParents "no-share-lock-on-parents" "An adder reads its parents without a share lock."
    ReleaseInStatementOfEnd "release-in-statement-of-end"
        "The children to release are looked up in the statement that ends their parent."
    FanInByNotExists "fan-in-by-not-exists"
        "A child is released where no unfinished parent is seen, rather than by a counter."
    FirstParentReleases "first-parent-releases" "The first parent to end releases its children."
    LimitCountedBeforeLock "limit-counted-before-lock" "A limit is counted before its row is locked."
    LimitOutsideClaim "limit-outside-claim" "A limit is read and counted without any lock."
    LimitWithoutClaims "limit-without-claims" "A limit is set without waiting for the claims that are under way."
    NoShareLockOnHolder "no-share-lock-on-holder" "Whoever waits for a slot reads its holder without a share lock."
    PromotionInStatementOfEnd "promotion-in-statement-of-end"
        "The first who waits for a slot gets it in the statement that ends the holder."
    PromotionWithoutLocks "promotion-without-locks"
        "The first who waits for a slot is chosen before those who wait are locked."
    FreedSlotGivenTwice "freed-slot-given-twice"
        "A slot that a call has freed counts as free although the same call has given it away again."
    LastInLineFirst "last-in-line-first" "A slot is handed to the last of those who wait."
    InsertLostWithItsHolder "insert-lost-with-its-holder"
        "An insert that was left out for a holder that is gone is answered as one that is stored."
    AliasTakenOver "alias-taken-over" "An alias that stands for another task is taken over."
    ReportNotKept "report-not-kept" "The lines of a report are acknowledged and not kept."
    RepeatableRead "repeatable-read" "The store is used at REPEATABLE READ."
    CommitTagIgnored "commit-tag-ignored" "A commit that was a rollback is taken for one that succeeded."
    RelaxedDurability "relaxed-durability"
        "Commits are acknowledged before they are on the disk: a crash of the database loses the last of them."
    ConnectionLeak "connection-leak" "A transaction that is broken off leaves its connection open."
    BlindRetryAfterUnknown "blind-retry-after-unknown"
        "A submit whose outcome is unknown is sent again as a new request."
    LostAnswerIsDefinite "lost-answer-is-definite" "A lost answer is told as if nothing had been done."
    HintsWithoutPolling "hints-without-polling" "A worker claims when it is hinted or something is due, and never else."
    RowCacheInClient "row-cache-in-client"
        "A process answers reads of a task with the first row that it saw of it."
    AbsenceCached "absence-cached" "A process remembers that there was no such task."
    IdCursorReader "id-cursor-reader"
        "A process follows changes by the highest number that it has seen, but numbers are given before the commit."
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_flaw_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Flaw::ALL.iter().map(|flaw| flaw.as_str()).collect();
        assert_eq!(names.len(), Flaw::ALL.len());
        assert!(
            names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')),
            "{names:?}"
        );
    }
}
