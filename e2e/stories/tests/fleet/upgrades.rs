//! Another release of the hub encodes what it sends otherwise. It means the same, so nothing moves at any node
//! (sync rule 4, invariant I8).

use selvedge_stories::{Outcome, World, expect};

use crate::Stage;
use crate::standing::until_well;

/// Back to the release before, as one rolls back what one does not trust, and forward again.
pub fn the_hub_is_upgraded(stage: &mut Stage) -> Outcome {
    let worlds = [stage.world.with_hub(&stage.release), stage.world.clone()];
    worlds.iter().try_for_each(|world| moves_nothing(stage, world))
}

fn moves_nothing(stage: &mut Stage, to: &World) -> Outcome {
    stage.load.rest()?;
    stage.load.ask("mark")?;
    Stage::install(to)?;
    let since = stage.load.rest()?;
    eprintln!("   the last session was back {} s after the new pods were asked for", since.back);
    expect("every session was broken off", since.back > 0.0, since.back)?;
    expect("nothing was brought to any node", since.came == 0, since.came)?;
    expect("nothing was taken away from any node", since.removed == 0, since.removed)?;
    until_well(stage)
}
