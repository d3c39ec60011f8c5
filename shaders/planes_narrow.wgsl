// planes_narrow: writes the rows of a run one word at a time. Serves every head size: in a 16-bit format
// with an odd head size two rows share a word, and the bits of the row that is not written stay.
// One thread owns each word, so there is no race. Joined once as key_ and once as value_.
//
// Unit:    one word of the plane, counted from the word that holds the first element of `run.first`.
// Bounds:  a lane outside [run.first, run.end) is left alone.

@group(0) @binding(SIDE_PLANES_BINDING) var<storage, read_write> side_planes: array<u32>;

// The bits that one lane of a word gets, and a mask of them.
fn side_lane(place: Place, run: Run, element: u32) -> vec2<u32> {
    let slot = element / SIDE_DIM;
    if slot < run.first || slot >= run.end {
        return vec2<u32>();
    }
    if slot < run.start {
        return vec2<u32>(0u, SIDE_LANE_MASK);
    }
    let token = run.token + (slot - run.start);
    return vec2<u32>(side_element(place, token, element % SIDE_DIM), SIDE_LANE_MASK);
}

// The bits of a word that a run writes, and a mask of them.
fn side_lanes(place: Place, run: Run, word: u32) -> vec2<u32> {
    var lane = side_lane(place, run, word * SIDE_LANES);
    if SIDE_LANES == 2u {
        lane |= side_lane(place, run, word * SIDE_LANES + 1u) << vec2<u32>(16u);
    }
    return lane;
}

// The bits that the other runs of a sequence write to a word that this run writes to. A ring can start a run in the
// word in which another ends; of those the thread of the one with the lower slots writes it for both.
fn side_shared(place: Place, run: Run, other: Run, word: u32) -> vec2<u32> {
    if other.first == other.end || other.first == run.first {
        return vec2<u32>();
    }
    return side_lanes(place, other, word);
}

fn side_write(place: Place, run: Run, unit: u32) {
    let word = run.first * SIDE_DIM / SIDE_LANES + unit;
    var lane = side_lanes(place, run, word);
    if RUNS_PER_SEQUENCE == 3u && SIDE_SHARED_WORDS == 1u && lane.y != 0u {
        var others = vec2<u32>();
        for (var i = 0u; i < RUNS_PER_SEQUENCE; i++) {
            others |= side_shared(place, run, written(step_run(place.first_run + i)), word);
        }
        // The lower half of the word is another run's, so its thread writes both.
        if others.y != 0u && (lane.y & 0xffffu) == 0u {
            return;
        }
        lane |= others;
    }
    let at = place.plane * SIDE_PLANE_WORDS + word;
    if lane.y == 0xffffffffu {
        side_planes[at] = lane.x;
    } else if lane.y != 0u {
        side_planes[at] = (side_planes[at] & ~lane.y) | lane.x;
    }
}
