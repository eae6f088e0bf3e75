// Command go_tlog checks a Hansa log with nothing but Go's own note and tlog packages.
//
// Usage: go_tlog [-old FILE] URL VKEY
//
// URL is that of a log, for example http://127.0.0.1:8000/log/trade. It fetches the checkpoint,
// opens it with the verifier key, and proves records and older trees from the tiles. It prints
// one line and exits with status 0 if all of it holds.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	maxBody    = 1 << 20
)

func main() {
	old := flag.String("old", "", "file with an earlier checkpoint that the log must extend")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: go_tlog [-old FILE] URL VKEY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *old); err != nil {
		fmt.Fprintln(os.Stderr, "go_tlog:", err)
		os.Exit(1)
	}
}

func run(base, vkey, oldFile string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("verifier key: %w", err)
	}
	log := &tileLog{base: strings.TrimSuffix(base, "/"), client: &http.Client{Timeout: 30 * time.Second}}
	signed, err := log.get("checkpoint")
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(signed, verifier)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	records, err := checkRecords(log, tree)
	if err != nil {
		return err
	}
	trees, err := checkTrees(log, tree)
	if err != nil {
		return err
	}
	if oldFile != "" {
		if err := checkOld(log, tree, oldFile, verifier); err != nil {
			return fmt.Errorf("%s: %w", oldFile, err)
		}
		trees++
	}
	fmt.Printf("OK size=%d records=%d trees=%d\n", tree.N, records, trees)
	return nil
}

// openCheckpoint returns the tree that a signed checkpoint states.
//
// The three lines are read by tlog.ParseTree, which knows the same form under another first line;
// the origin is compared with the name of the key before it is exchanged for that.
func openCheckpoint(signed []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	origin, rest, _ := strings.Cut(opened.Text, "\n")
	if origin != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("expected origin %q, got %q", verifier.Name(), origin)
	}
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + rest))
	if err != nil {
		return tlog.Tree{}, err
	}
	if tree.N < 1 {
		return tlog.Tree{}, errors.New("expected a log with an entry, got an empty one")
	}
	return tree, nil
}

// checkRecords proves some entries, as served in the bundles, against the tree.
func checkRecords(log *tileLog, tree tlog.Tree) (int, error) {
	hashes := tlog.TileHashReader(tree, log)
	indices := spread(0, tree.N-1)
	for _, index := range indices {
		entry, err := log.entry(tree.N, index)
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", index, err)
		}
		proof, err := tlog.ProveRecord(tree.N, index, hashes)
		if err != nil {
			return 0, fmt.Errorf("proving record %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
			return 0, fmt.Errorf("checking record %d: %w", index, err)
		}
	}
	return len(indices), nil
}

// checkTrees proves that the tree extends the trees of some smaller sizes.
func checkTrees(log *tileLog, tree tlog.Tree) (int, error) {
	hashes := tlog.TileHashReader(tree, log)
	sizes := spread(1, tree.N)
	for _, size := range sizes {
		hash, err := tlog.TreeHash(size, hashes)
		if err != nil {
			return 0, fmt.Errorf("hashing tree %d: %w", size, err)
		}
		if err := checkExtends(log, tree, tlog.Tree{N: size, Hash: hash}); err != nil {
			return 0, err
		}
	}
	return len(sizes), nil
}

func checkOld(log *tileLog, tree tlog.Tree, oldFile string, verifier note.Verifier) error {
	signed, err := os.ReadFile(oldFile)
	if err != nil {
		return err
	}
	old, err := openCheckpoint(signed, verifier)
	if err != nil {
		return err
	}
	return checkExtends(log, tree, old)
}

func checkExtends(log *tileLog, tree, old tlog.Tree) error {
	if old.N > tree.N {
		return fmt.Errorf("expected a tree of %d or more entries, got %d", old.N, tree.N)
	}
	proof, err := tlog.ProveTree(tree.N, old.N, tlog.TileHashReader(tree, log))
	if err != nil {
		return fmt.Errorf("proving tree %d: %w", old.N, err)
	}
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
		return fmt.Errorf("checking tree %d: %w", old.N, err)
	}
	return nil
}

// spread returns first and last, the middle, and what is next to the edge of a tile, each once.
func spread(first, last int64) []int64 {
	var chosen []int64
	seen := map[int64]bool{}
	for _, n := range []int64{
		first, last, (first + last) / 2, last / 3, last - 1, last &^ (tileWidth - 1),
		last&^(tileWidth-1) - 1, tileWidth - 1, tileWidth, tileWidth + 1, tileWidth * tileWidth,
	} {
		if n >= first && n <= last && !seen[n] {
			seen[n] = true
			chosen = append(chosen, n)
		}
	}
	return chosen
}

// A tileLog reads a log at the paths of C2SP tlog-tiles.
type tileLog struct {
	base   string
	client *http.Client
}

func (log *tileLog) Height() int { return tileHeight }

func (log *tileLog) SaveTiles([]tlog.Tile, [][]byte) {}

func (log *tileLog) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := log.get(tilePath(tile))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// tilePath returns the path of a tile in C2SP's form, which leaves out the height that Go writes.
func tilePath(tile tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
}

// entry returns an entry out of the bundle that holds it in a log of the given size.
func (log *tileLog) entry(size, index int64) ([]byte, error) {
	bundle := index / tileWidth
	width := int(min(tileWidth, size-bundle*tileWidth))
	leaves := tilePath(tlog.Tile{H: tileHeight, L: 0, N: bundle, W: width})
	data, err := log.get("tile/entries/" + strings.TrimPrefix(leaves, "tile/0/"))
	if err != nil {
		return nil, err
	}
	var found []byte
	count := 0
	for ; len(data) > 0; count++ {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, errors.New("expected a whole entry, got the end of the bundle")
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		if int64(count) == index%tileWidth {
			found = data[2:end]
		}
		data = data[end:]
	}
	if count != width {
		return nil, fmt.Errorf("expected a bundle of %d entries, got %d", width, count)
	}
	return found, nil
}

func (log *tileLog) get(path string) ([]byte, error) {
	url := log.base + "/" + path
	response, err := log.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: expected status 200, got %s", url, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxBody {
		return nil, fmt.Errorf("%s: expected up to %d bytes, got more", url, maxBody)
	}
	return data, nil
}
