// Tlog_verify checks what `swarm ledger` exports with the checkpoint and note code of the Go checksum database, which
// knows nothing of swarms:
//
//	tlog_verify VKEYS QUORUM DIR [PROOF...]
//
// VKEYS holds verifier keys, one a line. DIR is a tlog-tiles directory; its checkpoint must carry a log's line and
// QUORUM cosignatures. Every entry must be where its hash says, and each earlier size must be a prefix. PROOFs are
// .tlog-proof files that hold their entry. It prints what it checked, or the first thing that does not hold, and ends
// with 1.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A cosigner verifies cosignature/v1 lines (c2sp.org/tlog-cosignature), which the note package leaves to its users.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(c.key, []byte(message), sig[8:])
}

func check(err error, what string) {
	if err != nil {
		fmt.Printf("%s: %v\n", what, err)
		os.Exit(1)
	}
}

func require(ok bool, what string) {
	if !ok {
		check(fmt.Errorf("does not hold"), what)
	}
}

func verifiers(path string) (found []note.Verifier) {
	data, err := os.ReadFile(path)
	check(err, path)
	for _, vkey := range strings.Fields(string(data)) {
		parts := strings.SplitN(vkey, "+", 3)
		require(len(parts) == 3, vkey)
		key, err := base64.StdEncoding.DecodeString(parts[2])
		check(err, vkey)
		if key[0] != 4 {
			v, err := note.NewVerifier(vkey)
			check(err, vkey)
			found = append(found, v)
			continue
		}
		id := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
		require(fmt.Sprintf("%x", id[:4]) == parts[1], vkey)
		found = append(found, cosigner{parts[0], binary.BigEndian.Uint32(id[:]), key[1:]})
	}
	return found
}

// open returns the tree of a checkpoint that a log and a quorum have signed.
func open(data []byte, known []note.Verifier, quorum int) tlog.Tree {
	opened, err := note.Open(data, note.VerifierList(known...))
	check(err, "checkpoint")
	lines := strings.Split(opened.Text, "\n")
	require(len(lines) == 4, "three lines of checkpoint")
	logs, cosigners := 0, 0
	for _, sig := range opened.Sigs {
		if sig.Name == lines[0] {
			logs++
		} else if strings.HasPrefix(sig.Name, lines[0]+"/") {
			cosigners++
		}
	}
	require(logs > 0 && cosigners >= quorum, fmt.Sprintf("quorum: %d logs, %d cosigners", logs, cosigners))
	// The package has a parser for go.sum's checkpoints only: their first line is fixed.
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.Join(lines[1:], "\n")))
	check(err, "checkpoint")
	return tree
}

// A directory of tiles, as tlog wants to read them.
type directory string

func (d directory) Height() int                     { return 8 }
func (d directory) SaveTiles([]tlog.Tile, [][]byte) {}
func (d directory) ReadTiles(tiles []tlog.Tile) (found [][]byte, err error) {
	for _, tile := range tiles {
		// The standard's names are tlog's without the height, "tile/8/".
		data, err := os.ReadFile(filepath.Join(string(d), "tile", strings.TrimPrefix(tile.Path(), "tile/8/")))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func bundle(dir string, index, size int64) []byte {
	tile := tlog.Tile{H: 8, L: 0, N: index / 256, W: 256}
	if left := size - tile.N*256; left < 256 {
		tile.W = int(left)
	}
	data, err := os.ReadFile(filepath.Join(dir, "tile", "entries", strings.TrimPrefix(tile.Path(), "tile/8/0/")))
	check(err, "entries")
	return data
}

func main() {
	known := verifiers(os.Args[1])
	quorum, err := strconv.Atoi(os.Args[2])
	check(err, "quorum")
	dir := os.Args[3]
	data, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	check(err, "checkpoint")
	tree := open(data, known, quorum)
	hashes := tlog.TileHashReader(tree, directory(dir))
	var entries []byte
	for i := int64(0); i < tree.N; i++ {
		if i%256 == 0 {
			entries = bundle(dir, i, tree.N)
		}
		length := 2 + int(binary.BigEndian.Uint16(entries))
		leaf := tlog.RecordHash(entries[2:length])
		entries = entries[length:]
		proof, err := tlog.ProveRecord(tree.N, i, hashes)
		check(err, "proof")
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, i, leaf), fmt.Sprintf("entry %d", i))
		require(i%256 != 255 && i != tree.N-1 || len(entries) == 0, "end of a bundle")
	}
	for old := int64(1); old <= tree.N; old++ {
		root, err := tlog.TreeHash(old, hashes)
		check(err, "tree")
		proof, err := tlog.ProveTree(tree.N, old, hashes)
		check(err, "proof")
		check(tlog.CheckTree(proof, tree.N, tree.Hash, old, root), fmt.Sprintf("consistency from %d", old))
	}
	for _, path := range os.Args[4:] {
		data, err := os.ReadFile(path)
		check(err, path)
		split := bytes.Index(data, []byte("\n\n"))
		require(split > 0, path)
		lines := strings.Split(string(data[:split]), "\n")
		require(len(lines) > 2 && lines[0] == "c2sp.org/tlog-proof@v1", path)
		leaf, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
		check(err, path)
		index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
		check(err, path)
		var proof tlog.RecordProof
		for _, line := range lines[3:] {
			hash, err := tlog.ParseHash(line)
			check(err, path)
			proof = append(proof, hash)
		}
		head := open(data[split+2:], known, quorum)
		check(tlog.CheckRecord(proof, head.N, head.Hash, index, tlog.RecordHash(leaf)), path)
	}
	fmt.Printf("verified: %d keys, %d entries, %d sizes, %d proofs\n", len(known), tree.N, tree.N, len(os.Args)-4)
}
