// pages: a sequence is a list of pages, and a page has a plane a head. The page of position p is entry p / page size of
// the sequence's row of the block table. `reader_plane` has the row of the table in place of a page, and a slot is a
// position, until `reader_row_at` looks up the page.
//
// The host writes reader_page_size, reader_rows (index of the first sequence's row of the table), reader_table (index
// of the table) and reader_table_width (entries of a row).

fn reader_slot(position: u32) -> u32 {
    return position;
}

fn reader_plane(sequence: u32, head: u32) -> u32 {
    return reader_lengths[reader_rows + sequence] * reader_heads + head;
}

fn reader_row_at(plane: u32, slot: u32) -> reader_row {
    let row = reader_table + plane / reader_heads * reader_table_width;
    let page = reader_lengths[row + slot / reader_page_size];
    return reader_row(page * reader_heads + plane % reader_heads, slot % reader_page_size);
}
