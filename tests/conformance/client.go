package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// C2SP tlog-tiles: tiles are 8 levels high, so of 256 hashes or entries.
	height = 8
	width  = 1 << height
)

// client reads a log over HTTP; it is a tlog.TileReader.
type client struct {
	url string
	// tiles that were verified.
	tiles map[tlog.Tile][]byte
}

// path is where C2SP tlog-tiles has what sumdb calls tile/8/<L>/<N> and
// tile/8/data/<N>: it leaves the height out and has its own name for entries.
func path(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
	return "/" + strings.Replace(path, "tile/8/", "tile/", 1)
}

func (log *client) get(path string) ([]byte, error) {
	answer, err := http.Get(log.url + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// Height is that of every tile.
func (log *client) Height() int { return height }

// ReadTiles fetches the tiles that were not yet verified.
func (log *client) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	read := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data, known := log.tiles[tile]
		if !known {
			var err error
			if data, err = log.get(path(tile)); err != nil {
				return nil, err
			}
			if len(data) != tile.W*tlog.HashSize {
				return nil, fmt.Errorf("%s has %d bytes, expected %d hashes", path(tile), len(data), tile.W)
			}
		}
		read[i] = data
	}
	return read, nil
}

// SaveTiles keeps tiles that were verified.
func (log *client) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		log.tiles[tile] = data[i]
	}
}

// bundle is bundle n as it is in a tree of that size, taken apart.
func (log *client) bundle(n, size int64) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: -1, N: n, W: width}
	if left := size - n*width; left < width {
		tile.W = int(left)
	}
	rest, err := log.get(path(tile))
	if err != nil {
		return nil, err
	}
	entries := make([][]byte, 0, tile.W)
	for len(rest) > 0 {
		if len(rest) < 2 || len(rest)-2 < int(rest[0])<<8|int(rest[1]) {
			return nil, fmt.Errorf("%s ends within an entry", path(tile))
		}
		end := 2 + (int(rest[0])<<8 | int(rest[1]))
		entries = append(entries, rest[2:end])
		rest = rest[end:]
	}
	if len(entries) != tile.W {
		return nil, fmt.Errorf("%s has %d entries, expected %d", path(tile), len(entries), tile.W)
	}
	return entries, nil
}

// entries are those of a tree of that size.
func (log *client) entries(size int64) ([][]byte, error) {
	var entries [][]byte
	for n := int64(0); n*width < size; n++ {
		bundle, err := log.bundle(n, size)
		if err != nil {
			return nil, err
		}
		entries = append(entries, bundle...)
	}
	return entries, nil
}
