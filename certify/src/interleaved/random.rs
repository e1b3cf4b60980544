//! Random interleavings: whoever stands at the gate may go on, part by part, in an order drawn from a seed. Another stage
//! follows in the same order.

use std::fmt::{self, Display, Formatter};

use super::Stage;
use crate::random::Random;

/// In how many of a hundred cases a call is rolled back where it would commit.
const ROLLED_BACK: usize = 12;

/// Where a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It stands before this part.
    Before(&'static str),
    /// It waits for a lock.
    Waits,
    /// Its call is answered.
    Through,
}

/// One caller goes on to its next stop, and where all of them are then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Who.
    pub caller: usize,
    /// What it did.
    pub part: &'static str,
    /// Whether it was a rollback in place of a commit.
    pub rolls_back: bool,
    /// Where everybody is once nobody goes on by itself any more.
    pub places: Vec<Place>,
}

impl Display for Moved {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { caller, part, rolls_back, places } = self;
        let part = if *rolls_back { "rollback" } else { part };
        write!(f, "caller {caller}: {part:<16} then")?;
        places.iter().try_for_each(|place| match place {
            Place::Before(part) => write!(f, " [before {part}]"),
            Place::Waits => write!(f, " [waits]"),
            Place::Through => write!(f, " [through]"),
        })
    }
}

fn places(stage: &impl Stage, callers: usize) -> Vec<Place> {
    let place = |caller| match stage.at(caller) {
        _ if stage.is_through(caller) => Place::Through,
        Some(part) => Place::Before(part),
        None => Place::Waits,
    };
    (0..callers).map(place).collect()
}

/// Steps the calls to their ends in an order that is drawn.
///
/// # Panics
/// If all wait for each other for ever.
pub async fn step(stage: &mut impl Stage, callers: usize, random: &mut Random) -> Vec<Moved> {
    let mut moves: Vec<Moved> = Vec::new();
    stage.settle().await;
    loop {
        let now = places(stage, callers);
        let can_go = |caller: &usize| matches!(now[*caller], Place::Before(_));
        let standing: Vec<usize> = (0..callers).filter(can_go).collect();
        if now.iter().all(|place| *place == Place::Through) {
            return moves;
        }
        assert!(!standing.is_empty(), "nobody can go on: {moves:#?}");
        let caller = *random.pick(&standing);
        let part = stage.at(caller).expect("it stands");
        let rolls_back = part == "commit" && random.chance(ROLLED_BACK);
        let places = go(stage, callers, caller, rolls_back).await;
        moves.push(Moved { caller, part, rolls_back, places });
    }
}

/// Steps the calls in this order, as far as they show the same; answers where it differs, and how.
///
/// # Errors
/// The number of the move after which callers aren't where they were, and where they are.
pub async fn follow(
    stage: &mut impl Stage,
    callers: usize,
    moves: &[Moved],
) -> Result<(), (usize, Vec<Place>)> {
    stage.settle().await;
    for (number, Moved { caller, rolls_back, places, .. }) in moves.iter().enumerate() {
        let shown = go(stage, callers, *caller, *rolls_back).await;
        if shown != *places {
            return Err((number, shown));
        }
    }
    Ok(())
}

async fn go(stage: &mut impl Stage, callers: usize, caller: usize, rolls_back: bool) -> Vec<Place> {
    if rolls_back {
        stage.abandon(caller);
    }
    stage.grant(caller);
    stage.settle().await;
    places(stage, callers)
}
