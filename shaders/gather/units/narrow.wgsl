// narrow: copies one word of the output per thread. Works for every head size and format.
//
// Unit:    one word of the output, counted from the word that holds the first element of the run's output.
// Shapes:  planes   [plane, slot, dim], in words
// Bounds:  lanes outside of the run's output keep their bits.

#import ../rows/{same,packed,converted}.wgsl
#import ../../planes/words/{whole,shared}.wgsl as output

const OUTPUT_BINDING = 2u;

override DIM: u32;         // elements in a row of the output, or words if it is packed
override LANE_MASK: u32;   // bits of one element in a word's lowest lane
override PLANE_WORDS: u32; // words in a plane
// The following are used only if the stored format is packed.
override CODE_WORDS: u32;  // words of codes in a row
override SCALE_WORDS: u32; // words of scales in a row

@group(0) @binding(1) var<storage, read> planes: array<u32>;

// Returns the bits to store in one lane of a word, and their mask; (0, 0) if the element is outside of the part.
// `first` is the first element of the part.
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
    let plane = output_plane(place);
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
