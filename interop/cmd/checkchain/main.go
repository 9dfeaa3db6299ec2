// checkchain holds a chain in files against CometBFT's own code: every block and commit is judged exactly as block sync
// judges them (VerifyCommit, extended commits, BlockExecutor.ApplyBlock with stores, evidence pool and application), and
// what CometBFT computes is compared with expected.jsonl. It prints the chain's last height, or stops at the first fault.
//
//	checkchain [-app kvstore|noop] DIR…
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/abci/example/kvstore"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/libs/protoio"
	bcproto "github.com/cometbft/cometbft/proto/tendermint/blocksync"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"interop/chain"
)

var appName = flag.String("app", "kvstore", "the application that the chain was made for: kvstore or noop")

// maxMessage is far above the protocol's largest block.
const maxMessage = 256 << 20

// keptHeights is how many heights of blocks the in-memory stores keep: enough for evidence and the last commit.
const keptHeights = 64

// judge is a node that judges what it applies.
type judge struct{ *chain.Node }

func main() {
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "checkchain: name the directories of chains")
		os.Exit(2)
	}
	for _, dir := range flag.Args() {
		n, last, err := check(dir)
		if err != nil {
			fmt.Fprintf(os.Stderr, "checkchain: %s after height %d: %v\n", dir, last, err)
			os.Exit(1)
		}
		fmt.Printf("%s: CometBFT %s accepts %d blocks, the last at height %d\n", dir, cometVersion(), n, last)
	}
}

// cometVersion is the module's: v0.40.0 calls itself 0.39.0.
func cometVersion() string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == "github.com/cometbft/cometbft" {
			return dep.Version
		}
	}
	return "of unknown version"
}

// start makes a node from a chain's genesis.
func start(dir string) (*judge, error) {
	gen, err := types.GenesisDocFromFile(filepath.Join(dir, "genesis.json"))
	if err != nil {
		return nil, err
	}
	var app abci.Application = kvstore.NewApplication(dbm.NewMemDB())
	if *appName == "noop" {
		app = abci.NewBaseApplication()
	}
	n, err := chain.Start(gen, app, chain.InMemory())
	return &judge{n}, err
}

// fetched is one message of blocks.bin, decoded as a node decodes it.
type fetched struct {
	raw   []byte
	block *types.Block
	ext   *types.ExtendedCommit
}

func decode(msg *bcproto.BlockResponse) (*fetched, error) {
	raw, err := msg.Block.Marshal()
	if err != nil {
		return nil, err
	}
	block, err := types.BlockFromProto(msg.Block)
	if err != nil {
		return nil, err
	}
	f := &fetched{raw: raw, block: block}
	if msg.ExtCommit != nil {
		if f.ext, err = types.ExtendedCommitFromProto(msg.ExtCommit); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// check walks the chain; it returns the blocks accepted and the last height accepted.
func check(dir string) (count int, last int64, err error) {
	n, err := start(dir)
	if err != nil {
		return 0, 0, err
	}
	defer n.Conns.Stop() //nolint:errcheck // the process ends
	file, err := os.Open(filepath.Join(dir, "blocks.bin"))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	counted := &counter{r: bufio.NewReaderSize(file, 1<<20)}
	blocks := protoio.NewDelimitedReader(counted, maxMessage)
	expFile, err := os.Open(filepath.Join(dir, "expected.jsonl"))
	if err != nil {
		return 0, 0, err
	}
	defer expFile.Close()
	exp := json.NewDecoder(bufio.NewReaderSize(expFile, 1<<20))

	next := func() (*fetched, error) {
		var msg bcproto.BlockResponse
		before := counted.n
		if _, err := blocks.ReadMsg(&msg); err != nil {
			if errors.Is(err, io.EOF) && counted.n == before {
				return nil, nil
			}
			return nil, err
		}
		// Canonical to the byte, or its part set would be another one on the next node.
		if msg.Size()+uvarintLen(msg.Size()) != counted.n-before {
			return nil, fmt.Errorf("message of %d bytes is re-encoded in %d", counted.n-before, msg.Size())
		}
		return decode(&msg)
	}
	current, err := next()
	for err == nil && current != nil {
		var above *fetched
		if above, err = next(); err != nil {
			break
		}
		var commit *types.Commit
		if above != nil {
			commit = above.block.LastCommit
		} else if commit, err = tipCommit(dir); err != nil {
			break
		}
		var line chain.Expected
		if err = exp.Decode(&line); err != nil {
			break
		}
		if err = n.judge(current, commit, line); err != nil {
			break
		}
		count, last, current = count+1, current.block.Height, above
	}
	if err == nil && exp.More() {
		err = errors.New("expected.jsonl has more heights than blocks.bin")
	}
	return count, last, err
}

// judge judges one block with the commit for it, as CometBFT's block sync does, and executes it.
func (n *judge) judge(f *fetched, commit *types.Commit, want chain.Expected) error {
	block, height := f.block, f.block.Height
	parts, err := block.MakePartSet(types.BlockPartSizeBytes)
	if err != nil {
		return err
	}
	id := types.BlockID{Hash: block.Hash(), PartSetHeader: parts.Header()}
	again, err := block.ToProto()
	if err != nil {
		return err
	}
	if encoded, err := again.Marshal(); err != nil || !bytes.Equal(encoded, f.raw) {
		return fmt.Errorf("height %d: the block is not in its canonical encoding (%v)", height, err)
	}
	if err := block.ValidateBasic(); err != nil {
		return err
	}
	if err := n.State.Validators.VerifyCommit(n.State.ChainID, id, height, commit); err != nil {
		return err
	}
	if err := n.checkProposer(block, commit.Round); err != nil {
		return err
	}
	if err := n.save(f, parts, commit, id); err != nil {
		return err
	}
	got, err := n.Apply(block, parts)
	if err != nil {
		return err
	}
	if height%keptHeights == 0 && height > 2*keptHeights && n.BlockStore.Base() < height-keptHeights {
		if _, _, err := n.BlockStore.PruneBlocks(height-keptHeights, n.State); err != nil {
			return err
		}
	}
	if got != want {
		return fmt.Errorf("height %d: computed %+v, expected.jsonl has %+v", height, got, want)
	}
	return nil
}

// checkProposer is stricter than block sync, which asks for any validator: the proposer of the round that decided, or of an
// earlier round whose block was proposed again.
func (n *judge) checkProposer(block *types.Block, round int32) error {
	vals := n.State.Validators.Copy()
	for r := int32(0); r <= round; r++ {
		if bytes.Equal(vals.GetProposer().Address, block.ProposerAddress) {
			return nil
		}
		vals.IncrementProposerPriority(1)
	}
	return fmt.Errorf("height %d: %X proposes in no round up to %d", block.Height, block.ProposerAddress, round)
}

// save stores the block with the commit for it, extended where it must be, after judging the extensions.
func (n *judge) save(f *fetched, parts *types.PartSet, commit *types.Commit, id types.BlockID) error {
	height := f.block.Height
	enabled := n.State.ConsensusParams.ABCI.VoteExtensionsEnabled(height)
	if enabled != (f.ext != nil) {
		return fmt.Errorf("height %d: vote extensions enabled %t, extended commit there %t", height, enabled, f.ext != nil)
	}
	if !enabled {
		n.BlockStore.SaveBlock(f.block, parts, commit)
		return nil
	}
	if err := n.State.Validators.VerifyCommitExtended(n.State.ChainID, id, height, f.ext); err != nil {
		return err
	}
	n.BlockStore.SaveBlockWithExtendedCommit(f.block, parts, f.ext)
	return nil
}

func tipCommit(dir string) (*types.Commit, error) {
	data, err := os.ReadFile(filepath.Join(dir, "tip_commit.bin"))
	if err != nil {
		return nil, err
	}
	var pb cmtproto.Commit
	if err := pb.Unmarshal(data); err != nil {
		return nil, err
	}
	return types.CommitFromProto(&pb)
}

// counter counts the bytes that were read.
type counter struct {
	r *bufio.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func uvarintLen(n int) int {
	length := 1
	for ; n >= 0x80; n >>= 7 {
		length++
	}
	return length
}
