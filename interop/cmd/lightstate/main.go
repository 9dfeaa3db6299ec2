// lightstate fetches states as a stock node's state sync does, by CometBFT's own light client from RPC servers: header, commit,
// validators and params of a height and its neighbours, verified from a trusted block. It does so from two sets of servers and holds the
// states and commits against each other, byte by byte, proposer priorities included.
//
//	lightstate -chain ID -initial H -trust-height H -trust-hash X -servers URL,URL -reference URL,URL HEIGHT…
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/light"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/statesync"
)

var (
	chainID     = flag.String("chain", "", "the chain's id")
	initial     = flag.Int64("initial", 1, "its first height")
	trustHeight = flag.Int64("trust-height", 0, "height of the trusted block")
	trustHash   = flag.String("trust-hash", "", "its hash")
	servers     = flag.String("servers", "", "rpc_servers, two or more; the first is the primary, the others are witnesses")
	reference   = flag.String("reference", "", "rpc_servers that the first are compared with")
)

// patience is for everything: servers on this machine answer at once, or not at all.
const patience = 60 * time.Second

// restored is what a node's state sync takes from its servers for one height.
type restored struct{ appHash, state, commit []byte }

func main() {
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "lightstate: name heights")
		os.Exit(2)
	}
	if err := compare(flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "lightstate: %v\n", err)
		os.Exit(1)
	}
}

func compare(heights []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ours, err := provider(ctx, *servers)
	if err != nil {
		return fmt.Errorf("%s: %w", *servers, err)
	}
	theirs, err := provider(ctx, *reference)
	if err != nil {
		return fmt.Errorf("%s: %w", *reference, err)
	}
	for _, arg := range heights {
		height, err := strconv.ParseUint(arg, 10, 63)
		if err != nil {
			return err
		}
		a, err := restore(ctx, ours, height)
		if err != nil {
			return fmt.Errorf("%s, height %d: %w", *servers, height, err)
		}
		b, err := restore(ctx, theirs, height)
		if err != nil {
			return fmt.Errorf("%s, height %d: %w", *reference, height, err)
		}
		if !bytes.Equal(a.appHash, b.appHash) || !bytes.Equal(a.state, b.state) || !bytes.Equal(a.commit, b.commit) {
			return fmt.Errorf("height %d: the states differ:\n%x %x %x\n%x %x %x",
				height, a.appHash, a.state, a.commit, b.appHash, b.state, b.commit)
		}
	}
	fmt.Printf("%d states, verified and equal, at heights %s\n", len(heights), strings.Join(heights, " "))
	return nil
}

func provider(ctx context.Context, urls string) (statesync.StateProvider, error) {
	hash, err := hex.DecodeString(*trustHash)
	if err != nil {
		return nil, err
	}
	// The chains were made long ago by their own clock.
	trust := light.TrustOptions{Period: 200000 * time.Hour, Height: *trustHeight, Hash: hash}
	return statesync.NewLightClientStateProvider(
		ctx, *chainID, sm.InitStateVersion, *initial, strings.Split(urls, ","), trust, log.NewNopLogger())
}

func restore(ctx context.Context, from statesync.StateProvider, height uint64) (*restored, error) {
	appHash, err := from.AppHash(ctx, height)
	if err != nil {
		return nil, err
	}
	state, err := from.State(ctx, height)
	if err != nil {
		return nil, err
	}
	commit, err := from.Commit(ctx, height)
	if err != nil {
		return nil, err
	}
	encoded, err := commit.ToProto().Marshal()
	if err != nil {
		return nil, err
	}
	return &restored{appHash, state.Bytes(), encoded}, nil
}
