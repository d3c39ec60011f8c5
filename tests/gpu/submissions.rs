//! Submissions that a real device refuses. See `tests/common/destroyed.rs`.

use crate::{DONE, Gpu, Outcome, Test, destroyed};

pub const TESTS: &[Test] = &[
    ("submissions::a_cache_whose_storage_was_destroyed", a_cache_whose_storage_was_destroyed),
    ("submissions::layers_of_which_one_lost_its_storage", layers_of_which_one_lost_its_storage),
    ("submissions::a_source_that_is_destroyed_or_mapped", a_source_that_is_destroyed_or_mapped),
];

fn a_cache_whose_storage_was_destroyed(gpu: &Gpu) -> Outcome {
    destroyed::own_storage(&gpu.context);
    DONE
}

fn layers_of_which_one_lost_its_storage(gpu: &Gpu) -> Outcome {
    destroyed::last_layer(&gpu.context);
    destroyed::last_layer(&gpu.small);
    DONE
}

fn a_source_that_is_destroyed_or_mapped(gpu: &Gpu) -> Outcome {
    destroyed::source(&gpu.context);
    DONE
}
