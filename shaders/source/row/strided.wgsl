// strided: finds a row in the window of the caller's buffer, in elements, for any source. The kernel defines `chunk`.
//
// Bounds:  the host ensures that the window holds every token of the chunk.

fn side_source_row(place: Place, token: u32) -> u32 {
    return chunk.side_offset
        + (place.run.sequence - chunk.first_sequence) * chunk.side_sequence_stride
        + (place.head - chunk.first_head) * chunk.side_head_stride
        + (token - chunk.first_token) * chunk.side_token_stride;
}
