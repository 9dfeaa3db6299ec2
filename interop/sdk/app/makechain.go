//go:build !v038

package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	cmtdb "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmttypes "github.com/cometbft/cometbft/types"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/spf13/cobra"

	"github.com/cosmos/cosmos-sdk/codec"
	"github.com/cosmos/cosmos-sdk/server"
	"github.com/cosmos/cosmos-sdk/testutil/sims"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/module"
	authtypes "github.com/cosmos/cosmos-sdk/x/auth/types"
	banktypes "github.com/cosmos/cosmos-sdk/x/bank/types"
	genutiltypes "github.com/cosmos/cosmos-sdk/x/genutil/types"
	stakingtypes "github.com/cosmos/cosmos-sdk/x/staking/types"

	"interop/chain"
)

func init() {
	further = append(further, func(root *cobra.Command, basics module.BasicManager, cdc codec.Codec) {
		root.AddCommand(makeChainCmd(basics, cdc))
	})
}

// makeChainCmd makes a chain of many validators, which one machine could not run as nodes: their keys come from their numbers,
// and this process signs for all. It is written into a home after `init`, which can serve it.
func makeChainCmd(basics module.BasicManager, cdc codec.Codec) *cobra.Command {
	return &cobra.Command{
		Use:   "make-chain VALIDATORS HEIGHTS",
		Short: "Make a chain of empty blocks, signed by all validators, in a home without one",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			validators, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			heights, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return err
			}
			keys := make(map[string]ed25519.PrivKey)
			for i := range validators {
				key := ed25519.GenPrivKeyFromSecret(fmt.Appendf(nil, "sdkapp validator %d", i))
				keys[string(key.PubKey().Address())] = key
			}
			return makeChain(server.GetServerContextFromCmd(cmd), basics, cdc, keys, heights)
		},
	}
}

func makeChain(ctx *server.Context, basics module.BasicManager, cdc codec.Codec, keys map[string]ed25519.PrivKey, heights int64) error {
	file := ctx.Config.GenesisFile()
	gen, err := genutiltypes.AppGenesisFromFile(file)
	if err != nil {
		return err
	}
	if gen.AppState, err = appState(basics, cdc, keys); err != nil {
		return err
	}
	// A second lies between two blocks, however fast they are made: none may be ahead of the clock.
	gen.GenesisTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := gen.SaveAs(file); err != nil {
		return err
	}
	doc, err := gen.ToGenesisDoc()
	if err != nil {
		return err
	}
	data := filepath.Join(ctx.Config.RootDir, "data")
	db, err := dbm.NewDB("application", dbm.GoLevelDBBackend, data)
	if err != nil {
		return err
	}
	app := newApp(ctx.Logger, db, ctx.Viper)
	dbs := chain.Databases{}
	for name, to := range map[string]*cmtdb.DB{"blockstore": &dbs.Blocks, "state": &dbs.State, "evidence": &dbs.Evidence} {
		if *to, err = cmtdb.NewGoLevelDB(name, data); err != nil {
			return err
		}
	}
	node, err := chain.Start(doc, server.NewCometABCIWrapper(app), dbs)
	if err != nil {
		return err
	}
	last := &cmttypes.Commit{}
	for height := doc.InitialHeight; height < doc.InitialHeight+heights; height++ {
		if last, err = makeBlock(node, keys, height, last); err != nil {
			return err
		}
	}
	fmt.Printf("%d blocks of %d validators, application hash %X\n", heights, len(keys), node.State.AppHash)
	for _, close := range []func() error{node.BlockStore.Close, node.StateStore.Close, dbs.Evidence.Close, app.Close} {
		if err := close(); err != nil {
			return err
		}
	}
	return nil
}

// makeBlock makes an empty block, has it signed by all and executed, and gives the commit for it.
func makeBlock(node *chain.Node, keys map[string]ed25519.PrivKey, height int64, last *cmttypes.Commit) (*cmttypes.Commit, error) {
	set := node.State.Validators
	block, err := node.State.MakeBlock(height, nil, last, nil, set.GetProposer().Address)
	if err != nil {
		return nil, err
	}
	parts, err := block.MakePartSet(cmttypes.BlockPartSizeBytes)
	if err != nil {
		return nil, err
	}
	id := cmttypes.BlockID{Hash: block.Hash(), PartSetHeader: parts.Header()}
	commit := &cmttypes.Commit{Height: height, BlockID: id}
	for i, validator := range set.Validators {
		vote := &cmttypes.Vote{
			Type: cmtproto.PrecommitType, Height: height, BlockID: id, Timestamp: block.Time.Add(time.Second),
			ValidatorAddress: validator.Address, ValidatorIndex: int32(i),
		}
		signature, err := keys[string(validator.Address)].Sign(cmttypes.VoteSignBytes(node.State.ChainID, vote.ToProto()))
		if err != nil {
			return nil, err
		}
		vote.Signature = signature
		commit.Signatures = append(commit.Signatures, vote.CommitSig())
	}
	node.BlockStore.SaveBlock(block, parts, commit)
	_, err = node.Apply(block, parts)
	return commit, err
}

// appState is the modules' own, with these validators, of equal power, and one account.
func appState(basics module.BasicManager, cdc codec.Codec, keys map[string]ed25519.PrivKey) (json.RawMessage, error) {
	var validators []*cmttypes.Validator
	for _, key := range keys {
		validators = append(validators, cmttypes.NewValidator(key.PubKey(), 1))
	}
	owner := sdk.AccAddress(ed25519.GenPrivKeyFromSecret([]byte("sdkapp account")).PubKey().Address())
	accounts := []authtypes.GenesisAccount{authtypes.NewBaseAccountWithAddress(owner)}
	balance := banktypes.Balance{Address: owner.String(), Coins: sdk.NewCoins(sdk.NewInt64Coin("stake", 1_000_000_000))}
	state, err := sims.GenesisStateWithValSet(cdc, basics.DefaultGenesis(cdc), cmttypes.NewValidatorSet(validators), accounts, balance)
	if err != nil {
		return nil, err
	}
	// The helper bonds for each and gives the pool what one has bonded.
	var bank banktypes.GenesisState
	cdc.MustUnmarshalJSON(state[banktypes.ModuleName], &bank)
	pool := authtypes.NewModuleAddress(stakingtypes.BondedPoolName).String()
	for i := range bank.Balances {
		if bank.Balances[i].Address == pool {
			bank.Balances[i].Coins = bank.Supply.Sub(balance.Coins...)
		}
	}
	state[banktypes.ModuleName] = cdc.MustMarshalJSON(&bank)
	return json.MarshalIndent(state, "", " ")
}
