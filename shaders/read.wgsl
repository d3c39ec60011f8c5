// read: keys and values of one layer, for a shader of the caller's. Every name begins with the caller's prefix.
//
// Shapes:  lengths   [sequence], then [sequence] of starts, then the scales of keys and of values as the bits of f32

const reader_heads: u32 = READER_HEADSu;
// Positions before the end that a query sees, beside the sinks; the largest number where it sees all.
const reader_window: u32 = READER_WINDOWu;
// First positions that every query sees.
const reader_sinks: u32 = READER_SINKSu;

@group(READER_GROUP) @binding(READER_LENGTHS_BINDING) var<storage, read> reader_lengths: array<u32>;

// Positions of a sequence; its next token goes there.
fn reader_length(sequence: u32) -> u32 {
    return reader_lengths[sequence];
}

// The position of the first row that the last update wrote of a sequence, or its length where it wrote none: row `t` of
// the update is at this position plus `t`.
fn reader_start(sequence: u32) -> u32 {
    return reader_lengths[READER_STARTSu + sequence];
}

// The first position beyond the sinks that a query at a position sees. It sees all from there to itself, and the sinks.
fn reader_first_visible(query: u32) -> u32 {
    if query < reader_window {
        return min(reader_sinks, query + 1u);
    }
    return max(reader_sinks, query - reader_window + 1u);
}

// The rows of one sequence and head, for reader_key_at and reader_value_at.
fn reader_plane(sequence: u32, head: u32) -> u32 {
    return sequence * reader_heads + head;
}

// Where a position lies in a plane.
fn reader_slot(position: u32) -> u32 {
    READER_SLOT
}
