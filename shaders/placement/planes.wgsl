// planes: each sequence has planes of its own, one a head.

fn reader_plane(sequence: u32, head: u32) -> u32 {
    return sequence * reader_heads + head;
}

fn reader_row_at(plane: u32, slot: u32) -> reader_row {
    return reader_row(plane, slot);
}
