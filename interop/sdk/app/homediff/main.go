// Homediff compares the databases that blocksync has exported with a stock node's own, record by record.
//
//	homediff EXPORTED/data STOCK/data
//
// It names every record that differs, but those that may: the seen commit of a height (any commit of more than two thirds will do), validator
// records that the export writes whole, params written whole where the stock node names an earlier height, the state (the stock node is further on)
// and what nobody needs (genesisDoc, responses). Exit status 1 if anything else differs.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	cmtstore "github.com/cometbft/cometbft/proto/tendermint/store"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

type counts struct{ same, allowed, wrong int }

func open(dir string) *leveldb.DB {
	db, err := leveldb.OpenFile(dir, &opt.Options{ReadOnly: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, dir, err)
		os.Exit(1)
	}
	return db
}

// class is what stands before a key's first colon, and the height behind it.
func class(key string) (string, int64) {
	name, rest, found := strings.Cut(key, ":")
	if !found {
		return key, 0
	}
	digits, _, _ := strings.Cut(rest, ":")
	height, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return name, 0
	}
	return name, height
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: homediff EXPORTED/data STOCK/data")
		os.Exit(2)
	}
	ours, stock := os.Args[1], os.Args[2]
	store := open(ours + "/blockstore.db")
	raw, err := store.Get([]byte("blockStore"), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "blockStore:", err)
		os.Exit(1)
	}
	var span cmtstore.BlockStoreState
	if err := span.Unmarshal(raw); err != nil {
		fmt.Fprintln(os.Stderr, "blockStore:", err)
		os.Exit(1)
	}
	wrong := 0
	for _, name := range []string{"blockstore.db", "state.db"} {
		wrong += compare(ours+"/"+name, stock+"/"+name, span)
	}
	if wrong > 0 {
		fmt.Printf("%d records differ\n", wrong)
		os.Exit(1)
	}
	fmt.Printf("blocks %d to %d: no record differs that may not\n", span.Base, span.Height)
}

func compare(ours, stock string, span cmtstore.BlockStoreState) int {
	a, b := (*leveldb.DB)(nil), open(stock)
	if strings.HasSuffix(ours, "blockstore.db") {
		a = blockstore(ours)
	} else {
		a = open(ours)
	}
	defer a.Close()
	defer b.Close()
	of := map[string]*counts{}
	count := func(name string) *counts {
		if of[name] == nil {
			of[name] = &counts{}
		}
		return of[name]
	}
	all := a.NewIterator(nil, nil)
	for all.Next() {
		key, value := string(all.Key()), all.Value()
		name, height := class(key)
		c := count(name)
		theirs, err := b.Get(all.Key(), nil)
		switch {
		case err == nil && bytes.Equal(value, theirs):
			c.same++
		case may(name, height, value, theirs, span):
			c.allowed++
		default:
			c.wrong++
			if c.wrong <= 3 {
				fmt.Printf("%s: ours %x\n  stock %x\n", key, cut(value), cut(theirs))
			}
		}
	}
	all.Release()
	missing(a, b, span, count)
	wrong := 0
	for _, name := range []string{"H", "P", "C", "SC", "EC", "BH", "abciResponsesKey", "validatorsKey", "consensusParamsKey", "blockStore", "stateKey"} {
		if c := of[name]; c != nil {
			fmt.Printf("%s: %d equal, %d differ as they may, %d wrong\n", name, c.same, c.allowed, c.wrong)
			wrong += c.wrong
			delete(of, name)
		}
	}
	for name, c := range of {
		fmt.Printf("%s: a key that no stock node has\n", name)
		wrong += c.same + c.allowed + c.wrong
	}
	return wrong
}

var opened *leveldb.DB

// blockstore is open already, and can be only once.
func blockstore(dir string) *leveldb.DB {
	if opened == nil {
		opened = open(dir)
	}
	return opened
}

// missing counts the stock node's records of the exported heights that we have not written.
func missing(a, b *leveldb.DB, span cmtstore.BlockStoreState, count func(string) *counts) {
	all := b.NewIterator(nil, nil)
	defer all.Release()
	for all.Next() {
		name, height := class(string(all.Key()))
		top := map[string]int64{"H": span.Height, "P": span.Height, "C": span.Height - 1, "SC": span.Height, "EC": span.Height,
			"validatorsKey": span.Height + 2, "consensusParamsKey": span.Height + 1}[name]
		if top == 0 || height < span.Base || height > top {
			continue
		}
		if found, err := a.Has(all.Key(), nil); err != nil || !found {
			fmt.Printf("%s: the stock node has it, the export has not\n", all.Key())
			count(name).wrong++
		}
	}
}

func cut(value []byte) []byte {
	if len(value) > 200 {
		return value[:200]
	}
	return value
}

// may is whether two records may differ.
func may(name string, height int64, ours, theirs []byte, span cmtstore.BlockStoreState) bool {
	switch name {
	case "blockStore", "stateKey":
		return theirs != nil
	case "C":
		// The stock node that began higher has no commit below its first block.
		return theirs == nil && height < span.Base
	case "SC":
		var a, b cmtproto.Commit
		return a.Unmarshal(ours) == nil && b.Unmarshal(theirs) == nil && a.Height == height && b.Height == height &&
			a.BlockID.String() == b.BlockID.String()
	case "validatorsKey":
		var a, b cmtstate.ValidatorsInfo
		if a.Unmarshal(ours) != nil || b.Unmarshal(theirs) != nil {
			return false
		}
		// A pruned export says that the set is in force from its base on, where it has a set.
		if a.ValidatorSet == nil && b.ValidatorSet == nil {
			return a.LastHeightChanged == span.Base && b.LastHeightChanged < span.Base
		}
		if a.ValidatorSet == nil {
			return false
		}
		whole := height >= span.Height || height == span.Base
		return whole && (b.ValidatorSet == nil || sameMembers(a.ValidatorSet, b.ValidatorSet))
	case "consensusParamsKey":
		var a, b cmtstate.ConsensusParamsInfo
		return a.Unmarshal(ours) == nil && b.Unmarshal(theirs) == nil && a.LastHeightChanged == height &&
			b.LastHeightChanged < height && b.ConsensusParams.Block == nil
	}
	return false
}

func sameMembers(a, b *cmtproto.ValidatorSet) bool {
	if len(a.Validators) != len(b.Validators) {
		return false
	}
	for i, v := range a.Validators {
		w := b.Validators[i]
		if !bytes.Equal(v.Address, w.Address) || v.VotingPower != w.VotingPower {
			return false
		}
	}
	return true
}
