// read: keys and values of one layer, for a shader of the caller's. Every name begins with the caller's prefix, which
// stands here as reader_. The host writes these constants, and reader_lengths:
//
//     reader_heads      KV heads
//     reader_window     positions before the end that a query sees, beside the sinks; the largest number for all
//     reader_sinks      first positions that every query sees
//     reader_starts     index of the first start
//     reader_wrap       slots of a ring beyond the sinks
//
// and what placement/pages needs.
//
// Shapes:  lengths   [sequence], then [sequence] of starts, then the scales of keys and of values as the bits of f32

#import ../placement/{linear,ring,pages}.wgsl
#import loads/{one,two,four}.wgsl as reader_key, reader_value
#import ../format/{f32,halves,words,fp8_e4m3,q8_0,q4_0}/read.wgsl as reader_key, reader_value
#import side.wgsl as reader_key, reader_value
#import ../format/{words,halves,fp8_e4m3,q8_0,q4_0}/unit.wgsl as reader_key, reader_value
#import units/{one,two,four}.wgsl as reader_key, reader_value
#import halves/{none,f16}.wgsl as reader_key, reader_value

// Where a row lies: in which plane of the layer, and in which slot of it. placement/ defines `reader_plane` and
// `reader_slot`, and `reader_row_at` of these two.
struct reader_row {
    plane: u32,
    slot: u32,
}

// Positions of a sequence; its next token goes there.
fn reader_length(sequence: u32) -> u32 {
    return reader_lengths[sequence];
}

// The position of the first row that the last update wrote of a sequence, or its length where it wrote none: row `t` of
// the update is at this position plus `t`.
fn reader_start(sequence: u32) -> u32 {
    return reader_lengths[reader_starts + sequence];
}

// The first position beyond the sinks that a query at a position sees. It sees all from there to itself, and the sinks.
fn reader_first_visible(query: u32) -> u32 {
    if query < reader_window {
        return min(reader_sinks, query + 1u);
    }
    return max(reader_sinks, query - reader_window + 1u);
}

// The row of a sequence, head and position, which must be valid.
fn reader_row_of(sequence: u32, head: u32, position: u32) -> reader_row {
    return reader_row_at(reader_plane(sequence, head), reader_slot(position));
}
