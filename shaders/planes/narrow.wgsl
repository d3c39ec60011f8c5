// narrow: writes the rows of a run one word per thread. Works for every head size. source/ defines `side_element`.
//
// Unit:    one word of the plane, counted from the word that holds the first element of `run.first`.
// Bounds:  lanes outside [run.first, run.end) keep their bits.

#import side.wgsl as side
#import words/{whole,shared}.wgsl as side

override SIDE_LANE_MASK: u32; // bits of one element in a word's lowest lane

// Returns the bits to store in one lane of a word, and their mask; (0, 0) if the run does not write the element.
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

// Returns the bits that a run writes to a word, and their mask.
fn side_lanes(place: Place, run: Run, word: u32) -> vec2<u32> {
    var lane = side_lane(place, run, word * SIDE_LANES);
    if SIDE_LANES == 2u {
        lane |= side_lane(place, run, word * SIDE_LANES + 1u) << vec2<u32>(16u);
    }
    return lane;
}

fn side_write(place: Place, run: Run, unit: u32) {
    let word = run.first * SIDE_DIM / SIDE_LANES + unit;
    let lane = side_lanes(place, run, word);
    if lane.y != 0u {
        side_store(place.plane * SIDE_PLANE_WORDS + word, lane);
    }
}
