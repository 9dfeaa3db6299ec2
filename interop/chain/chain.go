// Package chain holds what the maker and the judge of chains share: a node's parts that take part in block sync, and the line of
// expected.jsonl for a height.
package chain

import (
	"encoding/hex"

	dbm "github.com/cometbft/cometbft-db"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/consensus"
	"github.com/cometbft/cometbft/evidence"
	cmtlog "github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/proxy"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/store"
	"github.com/cometbft/cometbft/types"
)

// Expected is what CometBFT computes at a height, as a line of expected.jsonl.
type Expected struct {
	Height             int64  `json:"height"`
	BlockHash          string `json:"block_hash"`
	PartsTotal         uint32 `json:"parts_total"`
	PartsHash          string `json:"parts_hash"`
	BlockBytes         int    `json:"block_bytes"`
	Validators         int    `json:"validators"`
	Evidence           int    `json:"evidence"`
	AppHashAfter       string `json:"app_hash_after"`
	ResultsHashAfter   string `json:"last_results_hash_after"`
	NextValidatorsHash string `json:"next_validators_hash_after"`
}

// Node is what of a CometBFT node takes part in block sync.
type Node struct {
	State      sm.State
	StateStore sm.Store
	BlockStore *store.BlockStore
	Evidence   *evidence.Pool
	Exec       *sm.BlockExecutor
	Conns      proxy.AppConns
}

// Databases are where a node keeps its parts.
type Databases struct{ Blocks, State, Evidence dbm.DB }

// InMemory keeps nothing.
func InMemory() Databases {
	return Databases{dbm.NewMemDB(), dbm.NewMemDB(), dbm.NewMemDB()}
}

// Start makes a node from genesis, as far as its first block. It does what a node does at its own start: InitChain, and the
// application's version and hash taken into the state.
func Start(gen *types.GenesisDoc, app abci.Application, dbs Databases) (*Node, error) {
	conns := proxy.NewAppConns(proxy.NewLocalClientCreator(app), proxy.NopMetrics())
	if err := conns.Start(); err != nil {
		return nil, err
	}
	stateStore := sm.NewStore(dbs.State, sm.StoreOptions{})
	blockStore := store.NewBlockStore(dbs.Blocks)
	state, err := sm.MakeGenesisState(gen)
	if err != nil {
		return nil, err
	}
	if err := stateStore.Save(state); err != nil {
		return nil, err
	}
	if err := consensus.NewHandshaker(stateStore, state, blockStore, gen).Handshake(conns); err != nil {
		return nil, err
	}
	if state, err = stateStore.Load(); err != nil {
		return nil, err
	}
	evPool, err := evidence.NewPool(dbs.Evidence, stateStore, blockStore)
	if err != nil {
		return nil, err
	}
	exec := sm.NewBlockExecutor(stateStore, cmtlog.NewNopLogger(), conns.Consensus(), &mempool.NopMempool{}, evPool, blockStore)
	return &Node{state, stateStore, blockStore, evPool, exec, conns}, nil
}

// Apply executes a block, which must be stored, and says what came out.
func (n *Node) Apply(block *types.Block, parts *types.PartSet) (Expected, error) {
	id := types.BlockID{Hash: block.Hash(), PartSetHeader: parts.Header()}
	signers := n.State.Validators.Size()
	state, err := n.Exec.ApplyBlock(n.State, id, block)
	if err != nil {
		return Expected{}, err
	}
	n.State = state
	return Expected{
		Height: block.Height, BlockHash: hex.EncodeToString(id.Hash), PartsTotal: parts.Total(),
		PartsHash: hex.EncodeToString(parts.Hash()), BlockBytes: block.Size(), Validators: signers,
		Evidence:     len(block.Evidence.Evidence),
		AppHashAfter: hex.EncodeToString(state.AppHash), ResultsHashAfter: hex.EncodeToString(state.LastResultsHash),
		NextValidatorsHash: hex.EncodeToString(state.NextValidators.Hash()),
	}, nil
}
