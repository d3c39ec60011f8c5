// narrow: one word of the output a unit, for every head size and format.
//
// Unit:    one word of the output, counted from the word that holds the first element of the run's output.
// Bounds:  a lane outside of the run's output is left alone.

#import ../rows/{same,packed,converted}.wgsl
#import ../../planes/words/{whole,shared}.wgsl as output

const OUTPUT_BINDING = 2u;

override DIM: u32; // elements of a row of the output, or words of a packed one
override LANE_MASK: u32;
override PLANE_WORDS: u32;
// Of packed formats, else 0.
override CODE_WORDS: u32;
override SCALE_WORDS: u32;

@group(0) @binding(1) var<storage, read> planes: array<u32>;

// The bits that one lane of a word gets, and a mask of them; `first` is the element with which the part begins.
fn lane_of(place: Place, part: Part, first: u32, element: u32) -> vec2<u32> {
    let row = (element - first) / DIM;
    if element < first || row >= part.rows {
        return vec2<u32>();
    }
    let slot = part.slot + row;
    if slot < place.run.start {
        return vec2<u32>(0u, LANE_MASK);
    }
    return vec2<u32>(stored(place.plane, slot, (element - first) % DIM), LANE_MASK);
}

fn gather_unit(place: Place, part: Part, unit: u32) {
    let plane = place.plane - window.segment_plane;
    let first = window.offset + (plane * window.rows + part.row) * DIM;
    let word = first / LANES + unit;
    var lane = lane_of(place, part, first, word * LANES);
    if LANES == 2u {
        lane |= lane_of(place, part, first, word * LANES + 1u) << vec2<u32>(16u);
    }
    if lane.y != 0u {
        output_store(word, lane);
    }
}
