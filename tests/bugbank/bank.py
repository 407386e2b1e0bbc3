"""The bugs: what could be wrong with a ledger, how to make it wrong, and which test must notice.

Some of these have happened to others (fsync retried, a torn tail cut in the middle of a file, minimal integers not
asked for), some are one forgotten line away. A bug that no test kills is a hole in the suite; a test that kills none
may still be worth having, but here is the proof of these.
"""

from __future__ import annotations

from node.bulk import BulkWorker
from node.core import node
from node.messages import Messages
from node.storage import RealDisk, sync_folder
from swarm import codec, gossip_round, identity, masked_round, routed_round
from swarm.charter import Charter
from swarm.ledger import (
    audit,
    block,
    consensus,
    evidence,
    exchange,
    journal,
    masked_waits,
    merkle,
    motions,
    partials,
    pushing,
    replica,
    state,
    views,
)
from swarm.ledger import entry as e
from swarm.ledger import masking as log_masks
from swarm.masking import noise
from swarm.mixing import average, robust
from tests.bugbank import test_claims as claims
from tests.bugbank.seeding import Bug, Edit
from tests.conformance import test_signing as signing
from tests.node import test_core as core
from tests.node import test_salted_updates as salted
from tests.node import test_storage as storage
from tests.simulation import test_membership as membership
from tests.simulation import test_site_noise as noised
from tests.swarm import test_codec as bytes_
from tests.swarm import test_copies as copies
from tests.swarm import test_gossip_round as gossips
from tests.swarm import test_identity as keys
from tests.swarm import test_masked_round as mask_rounds
from tests.swarm import test_routed_round as routed
from tests.swarm import test_routes as routes
from tests.swarm import test_rule_terms as terms_
from tests.swarm import test_salt as salts
from tests.swarm.ledger import test_block as blocks
from tests.swarm.ledger import test_consensus as agreement
from tests.swarm.ledger import test_crash_states as crashes
from tests.swarm.ledger import test_entry as entries
from tests.swarm.ledger import test_evidence as proofs
from tests.swarm.ledger import test_exchange as exchanges
from tests.swarm.ledger import test_journal as journals
from tests.swarm.ledger import test_late as late
from tests.swarm.ledger import test_masked_waits as waits
from tests.swarm.ledger import test_masking as masking
from tests.swarm.ledger import test_merkle as trees
from tests.swarm.ledger import test_pushing as pushes
from tests.swarm.ledger import test_replica as replicas
from tests.swarm.ledger import test_state as states
from tests.swarm.masking import test_noise as shares
from tests.swarm.mixing import test_robust as rules

_Node = consensus.Consensus

VOTING = (
    Bug(
        "a vote is sent before it is durable",
        (
            Edit(
                _Node._cast,
                "    self._write()\n    if proposal is not None:\n        self._out.append(ToAll(proposal))\n"
                "    self._out.append(ToAll(vote))\n",
                "    if proposal is not None:\n        self._out.append(ToAll(proposal))\n"
                "    self._out.append(ToAll(vote))\n    self._write()\n",
            ),
        ),
        agreement.test_a_vote_and_its_block_are_durable_before_the_vote_is_sent,
    ),
    Bug(
        "the body of a block that was voted for is not persisted",
        (Edit(_Node._cast, "self._save(RECORD_BODY, view, codec.encode(body))", "pass"),),
        agreement.test_a_whole_swarm_restarted_with_an_unfinished_block_finishes_it,
    ),
    Bug(
        "a leader restarted before it sent its block makes another one",
        (
            Edit(_Node._restore_body, "self._keep_body(block, header)", "pass"),
            Edit(_Node._restore_vote, "state.proposed = True", "pass"),
        ),
        agreement.test_a_leader_restarted_between_write_and_send_proposes_the_same_block_again,
    ),
    Bug(
        "a restart forgets what was voted for",
        (Edit(_Node._restore_vote, "state.mine.setdefault(vote.kind, vote.block)", "pass"),),
        agreement.test_a_restarted_voter_does_not_vote_for_a_second_block,
    ),
    Bug(
        "a forgotten vote that others remember is signed anew",
        (Edit(_Node._remember_mine, "if vote.signer != self._me or", "if True or"),),
        agreement.test_a_member_that_lost_its_votes_learns_them_from_others_and_contradicts_none,
    ),
    Bug(
        "a forgotten vote inside a certificate is signed anew",
        (Edit(_Node._learn, "if self._me in certificate.signers:", "if False:"),),
        agreement.test_own_votes_inside_a_certificate_are_remembered_too,
    ),
    Bug(
        "two blocks of one view are notarized",
        (
            Edit(_Node._vote_notarize, "if NOTARIZE in state.mine or SKIP in state.mine:", "if SKIP in state.mine:"),
            Edit(_Node._cast, 'assert kind not in state.mine, "one statement of a kind per view"', "pass"),
        ),
        agreement.test_a_leader_that_proposes_two_blocks_gets_one_vote_and_is_on_record,
    ),
    Bug(
        "a view is skipped after its block was finalized",
        (
            Edit(_Node._give_up, "SKIP in state.mine or FINALIZE in state.mine", "SKIP in state.mine"),
            Edit(_Node._cast, "assert not (kind == SKIP and FINALIZE in state.mine)", "assert not (False)"),
        ),
        agreement.test_a_view_with_my_finalize_vote_is_never_skipped,
    ),
    Bug(
        "a block is finalized after its view was skipped",
        (
            Edit(_Node._vote_finalize, "FINALIZE in state.mine or SKIP in state.mine", "FINALIZE in state.mine"),
            Edit(_Node._cast, "assert not (kind == FINALIZE and SKIP in state.mine)", "assert not (False)"),
        ),
        agreement.test_a_block_that_i_notarized_and_then_gave_up_is_never_finalized_by_me,
    ),
    Bug(
        "a block is finalized that was not notarized by oneself",
        (
            Edit(_Node._vote_finalize, "if state.mine.get(NOTARIZE) == certificate.block:", "if True:"),
            Edit(
                _Node._cast,
                "assert kind != FINALIZE or state.mine.get(NOTARIZE) == block",
                "assert True",
            ),
        ),
        agreement.test_what_i_did_not_notarize_i_do_not_finalize,
    ),
    Bug(
        "a block may jump over views without skip certificates",
        (
            Edit(
                _Node._check_justification,
                "if [skip.view for skip in rest] != list(range(header.parent_view + 1, header.view)):",
                "if False:",
            ),
        ),
        agreement.test_a_proposal_without_the_right_to_extend_its_parent_is_refused,
    ),
    Bug(
        "a certificate in a justification is believed",
        (Edit(_Node._check_justification, "self._accept(certificate)", "self._learn(certificate)"),),
        agreement.test_a_proposal_without_the_right_to_extend_its_parent_is_refused,
    ),
    Bug(
        "a proposal of another than the leader is taken",
        (Edit(_Node._check_proposal, "if block.proposer != self.leader(header.view):", "if False:"),),
        agreement.test_a_proposal_is_refused_unless_its_views_leader_signed_all_of_it,
    ),
    Bug(
        "two contradictory quorums do not stop a member",
        (Edit(_Node._learn, "if rival is not None:", "if False:"),),
        agreement.test_two_quorums_that_contradict_each_other_halt_the_member_and_name_the_culprits,
    ),
    Bug(
        "a chain to catch up with need not be one",
        (
            Edit(
                _Node._followed,
                "if chain and (header.height, header.parent_hash) != (chain[-1][1].height + 1, chain[-1][1].hash):",
                "if False:",
            ),
        ),
        agreement.test_a_false_chain_is_refused,
    ),
    Bug(
        "votes for any view, however far ahead, are kept",
        (Edit(_Node._live, "<= self._view + VIEWS_AHEAD_MAX", "< 2**63"),),
        agreement.test_votes_beyond_the_window_leave_no_trace,
    ),
    Bug(
        "whoever asks for what it lacks gets all of it, always",
        (Edit(_Node._afford, "if spent + size > STATUS_REPLY_BYTES_PER_MINUTE:", "if False:"),),
        agreement.test_what_a_peer_may_draw_by_asking_is_bounded_per_minute,
    ),
)

CERTIFICATES = (
    Bug(
        "the quorum is one too small",
        (Edit(block.quorum, "return (members + faults(members)) // 2 + 1", "return (members + faults(members)) // 2"),),
        blocks.test_the_quorum_table_of_the_design,
    ),
    Bug(
        "the quorum is everybody",
        (Edit(block.quorum, "return (members + faults(members)) // 2 + 1", "return members"),),
        blocks.test_the_quorum_is_the_smallest_that_is_safe_and_is_always_live,
    ),
    Bug(
        "a signer counts as often as it is named",
        (Edit(block.Certificate.check, "a >= b", "a > b"),),
        blocks.test_a_signer_counts_once,
    ),
    Bug(
        "signatures above the quorum are not checked",
        (
            Edit(
                block.Certificate.check,
                "zip(self.signers, self.signatures, strict=True)",
                "list(zip(self.signers, self.signatures, strict=True))[:quorum]",
            ),
        ),
        blocks.test_one_bad_signature_spoils_a_certificate_even_above_the_quorum,
    ),
    Bug(
        "a vote does not sign the ledger it is for",
        (Edit(block.vote_message, "identity.DOMAIN_VOTE + ledger_id +", "identity.DOMAIN_VOTE + bytes(32) +"),),
        blocks.test_no_two_statements_sign_the_same_bytes,
    ),
    Bug(
        "a vote does not sign its epoch",
        (Edit(block.vote_message, "_VOTE.pack(epoch,", "_VOTE.pack(0,"),),
        blocks.test_no_two_statements_sign_the_same_bytes,
    ),
    Bug(
        "a vote does not sign its kind",
        (Edit(block.vote_message, "view, kind, block", "view, 0, block"),),
        signing.test_changing_one_field_changes_the_bytes_of_that_field_alone,
    ),
    Bug(
        "a leader does not sign the ledger it proposes for",
        (Edit(block.propose_message, "identity.DOMAIN_PROPOSE + ledger_id +", "identity.DOMAIN_PROPOSE +"),),
        blocks.test_a_proposal_is_signed_over_domain_ledger_and_header,
    ),
    Bug(
        "a certificate of another epoch is judged by this one's keys",
        (
            Edit(_Node.on_certificate, "certificate.epoch != self._epoch or", ""),
            Edit(_Node._accept, "if certificate.epoch != self._epoch:", "if False:"),
        ),
        agreement.test_messages_of_another_epoch_are_not_heard,
    ),
    Bug(
        "an auditor judges every certificate by the founders' keys",
        (Edit(audit.Auditing._check, "terms = result.state.terms", "terms = result.epochs[0].terms"),),
        membership.test_a_member_takes_new_keys_and_stays_who_it_was,
    ),
    Bug(
        "what covers an epoch's last block may hold entries",
        (Edit(block.FinalBlock.certified_hash, "or child.count or", "or"),),
        claims.test_only_empty_blocks_cover_the_last_one_of_an_epoch,
    ),
    Bug(
        "a certificate on record is believed",
        (
            Edit(
                replica.Replica._check_recorded,
                "certificate.check(self.head.ledger_id, terms.vote_keys, terms.quorum, self._verify)",
                "pass",
            ),
        ),
        replicas.test_a_recorded_certificate_that_no_quorum_signed_is_invalid,
    ),
    Bug(
        "a block that was only notarized is on record as final",
        (Edit(state._apply_cert, "certificate.kind != FINALIZE or", ""),),
        states.test_a_certificate_of_another_block_or_of_another_kind_proves_nothing,
    ),
)

BYTES = (
    Bug(
        "a leaf is hashed without its prefix",
        (Edit(merkle.leaf_hash, 'b"\\x00" + leaf', "leaf"),),
        trees.test_leaves_and_nodes_hash_in_separate_domains,
    ),
    Bug(
        "an inclusion proof may be too short",
        (Edit(merkle.verify_inclusion, "    if last:\n", "    if False:\n"),),
        trees.test_an_inclusion_proof_holds_for_no_size_with_another_path_length,
    ),
    Bug(
        "the lengths of the hashes of a proof are not looked at",
        (Edit(merkle._check_lengths, "len(value) != HASH_BYTES", "False"),),
        trees.test_bytes_may_not_move_between_the_hashes_of_a_proof,
    ),
    Bug(
        "a consistency proof leads to the new root only",
        (Edit(merkle.verify_consistency, "if first != old_root or second != new_root:", "if second != new_root:"),),
        trees.test_a_rewritten_history_has_no_consistency_proof,
    ),
    Bug(
        "an integer may be written longer than need be",
        (Edit(codec.decode, "canonical = _AGAIN.encode(value) == data", "canonical = True"),),
        bytes_.test_a_longer_form_of_a_good_value_is_refused,
    ),
    Bug(
        "a claimed length is believed before the bytes are there",
        (Edit(codec.decode, "_SKIM.decode(data)", "pass"),),
        bytes_.test_a_nest_of_arrays_that_each_claim_the_limit_allocates_next_to_nothing,
    ),
    Bug(
        "a key of small order is admitted",
        (Edit(identity.admissible, "bool(bindings.crypto_core_ed25519_is_valid_point(public_key))", "True"),),
        keys.test_no_encoding_of_a_small_order_point_is_admitted,
    ),
    Bug(
        "an entry does not sign the ledger it is for",
        (
            Edit(e.sign_entry, "identity.DOMAIN_ENTRY + ledger_id +", "identity.DOMAIN_ENTRY +"),
            Edit(e.verify_entry, "identity.DOMAIN_ENTRY + ledger_id +", "identity.DOMAIN_ENTRY +"),
        ),
        entries.test_the_signature_covers_the_domain_the_ledger_and_every_field_but_itself,
    ),
    Bug(
        "an entry of another ledger is taken",
        (Edit(e.verify_entry, "if entry.ledger_id != ledger_id:", "if False:"),),
        entries.test_an_entry_of_another_ledger_is_refused_even_with_a_good_signature,
    ),
)

LOG = (
    Bug(
        "an entry need not follow the one before it",
        (
            Edit(
                state.apply_authored,
                "if (entry.seq, entry.prev) != (head.seq, head.prev):",
                "if entry.seq != head.seq:",
            ),
        ),
        states.test_an_entry_that_follows_another_one_than_the_log_has_is_refused,
    ),
    Bug(
        "the commit of a round is not recomputed",
        (
            Edit(
                state._apply_leaf,
                "commit = due_commit(state)\n"
                "            if commit is None or derived_leaf(state, entry.kind, commit, header.time_ms) != leaf:",
                "commit = codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX)\n            if False:",
            ),
        ),
        states.test_a_commit_of_anything_but_what_was_attested_is_refused,
    ),
    Bug(
        "a leader may leave out a commit that is due",
        (Edit(state.apply_block, "if due_commit(state, measured=False) is not None:", "if False:"),),
        states.test_a_block_that_leaves_out_a_due_commit_is_refused,
    ),
    Bug(
        "the weights of a close are not checked",
        (Edit(state.check_close, "if make_close(state, terms, dict(close.rejected)) != close:", "if False:"),),
        states.test_a_close_that_does_not_follow_from_the_log_is_refused,
    ),
    Bug(
        "a close may pass over a contribution in silence",
        (
            Edit(
                state.check_close,
                "if sorted([*indices, *(index for index, _ in close.rejected)]) != sorted(by_index):",
                "if False:",
            ),
        ),
        states.test_a_close_that_does_not_follow_from_the_log_is_refused,
    ),
    Bug(
        "a contribution that starts from another model is averaged",
        (
            Edit(
                state.check_close,
                "if stray == state.starts_well(placed.author, placed.body):",
                "if False:",
            ),
        ),
        states.test_what_starts_from_another_model_is_rejected_for_that_and_nothing_else,
    ),
    Bug(
        "a leader includes a contribution that starts from another model",
        (
            Edit(
                replica.Replica._weigh,
                "if not state.starts_well(placed.author, placed.body):",
                "if False:",
            ),
        ),
        replicas.test_a_contribution_from_another_model_is_rejected_for_that_by_everybody,
    ),
    Bug(
        "a member may attest twice",
        (Edit(state._note_attest, " or author in state.attests", ""),),
        states.test_only_a_members_first_attest_of_the_close_at_hand_counts,
    ),
    Bug(
        "what comes after its round has closed still counts",
        (
            Edit(
                state._note_contribution, "late = body.round < state.round or closed", "late = body.round < state.round"
            ),
        ),
        states.test_what_comes_after_its_round_has_closed_is_late_and_named_in_the_commit,
    ),
    Bug(
        "the root in a header is not checked",
        (Edit(state._check_outcome, " or header.root != state.frontier.root()", ""),),
        states.test_a_header_that_does_not_match_its_entries_is_refused,
    ),
    Bug(
        "the state hash in a header is not checked",
        (Edit(state._check_outcome, "if header.state_hash != state.digest():", "if False:"),),
        states.test_a_header_that_does_not_match_its_entries_is_refused,
    ),
    Bug(
        "a vote for a close does not need the updates",
        (
            Edit(
                replica.Replica._judge_close,
                'return Wait(f"the update of {card.name} has not arrived", progressing=moving)\n'
                "            if verdict:",
                "continue\n            if verdict:",
            ),
        ),
        replicas.test_a_vote_waits_for_the_bytes_and_says_whether_they_are_on_their_way,
    ),
    Bug(
        "a round of which too little is left is waited for, for ever",
        (
            Edit(
                replica.Replica._ready,
                "return make_void(state) if self._is_lost(state, now) else None",
                "return None",
            ),
        ),
        replicas.test_a_route_of_which_too_little_is_left_for_a_whole_deadline_ends_with_nothing,
    ),
    Bug(
        "a round is given up by who has enough of it",
        (Edit(replica.Replica._judge_void, "if usable >= state.terms.round.min_contributions:", "if False:"),),
        replicas.test_nobody_gives_a_round_up_who_has_enough_of_it_or_is_still_on_its_route,
    ),
    Bug(
        "who was cut off has looked for updates in vain",
        (Edit(replica.Replica._is_lost, "if len(there) < state.terms.quorum:", "if False:"),),
        replicas.test_who_was_cut_off_has_not_looked_for_updates_in_vain,
    ),
    Bug(
        "a block may be dated in the future",
        (
            Edit(
                replica.Replica.judge, "if header.time_ms > now * 1000 + self._charter.ledger.max_skew_ms:", "if False:"
            ),
        ),
        replicas.test_a_block_dated_in_the_future_waits,
    ),
    Bug(
        "a fork in a feed goes unnoticed",
        (Edit(replica.Replica.admit, "if e.decode_entry(first).id != authored.id:", "if False:"),),
        replicas.test_a_forked_feed_is_on_record_and_whoever_passed_it_on_is_not_blamed,
    ),
)

EPOCHS = (
    Bug(
        "a leader may leave out an epoch that was voted for",
        (Edit(state.apply_block, "if due_epoch(state) is not None:", "if False:"),),
        claims.test_an_epoch_that_is_voted_for_begins_with_the_next_block_and_no_other_begins,
    ),
    Bug(
        "the entry of an epoch is not recomputed",
        (
            Edit(
                state._apply_leaf,
                "if due is None or derived_leaf(state, entry.kind, due[0], header.time_ms) != leaf:",
                "if due is None:",
            ),
        ),
        claims.test_an_epoch_that_is_voted_for_begins_with_the_next_block_and_no_other_begins,
    ),
    Bug(
        "an epoch goes on behind its last block",
        (
            Edit(
                state.apply_block,
                "if header.epoch == state.terms.epoch and state.coming is not None:",
                "if False:",
            ),
        ),
        claims.test_behind_the_last_block_of_an_epoch_only_empty_ones_of_it_follow,
    ),
    Bug(
        "a motion needs no quorum",
        (Edit(motions.carried, "if len(motion.said(terms, True)) >= terms.quorum:", "if motion.votes:"),),
        membership.test_nothing_changes_without_a_quorum_and_a_no_is_on_record,
    ),
    Bug(
        "an auditor judges a certificate on record by the keys of today",
        (Edit(audit._Chain.check_recorded, "state.terms_of(certificate.epoch)", "state.terms"),),
        claims.test_a_certificate_on_record_is_judged_by_the_keys_of_its_own_epoch,
    ),
    Bug(
        "a member judges a certificate on record by the keys of today",
        (Edit(replica.Replica._check_recorded, "before.terms_of(certificate.epoch)", "before.terms"),),
        replicas.test_a_recorded_certificate_is_judged_by_the_keys_of_the_epoch_that_made_it,
    ),
)

EVIDENCE = (
    Bug(
        "votes of two epochs count as a contradiction",
        (
            Edit(
                evidence._vote_rule,
                "if (first.epoch, first.view) != (second.epoch, second.view):",
                "if first.view != second.view:",
            ),
        ),
        claims.test_votes_of_two_epochs_contradict_nothing,
    ),
    Bug(
        "proposals of two epochs count as a contradiction",
        (
            Edit(
                evidence._proposals_hold,
                "(first.epoch, first.view) == (second.epoch, second.view)",
                "first.view == second.view",
            ),
        ),
        claims.test_proposals_of_two_epochs_contradict_nothing,
    ),
    Bug(
        "an old vote is judged by the keys of today",
        (Edit(evidence._of_epoch, "next((terms for terms in known if terms.epoch == epoch), None)", "known[0]"),),
        claims.test_votes_are_judged_by_the_keys_of_their_own_epoch,
    ),
    Bug(
        "two signatures of one message count as a contradiction",
        (Edit(evidence._entries_hold, "if first.id == second.id:", "if False:"),),
        claims.test_a_signer_that_signs_one_message_twice_contradicts_nothing,
    ),
    Bug(
        "one message twice counts as a contradiction",
        (
            Edit(evidence.judge, "if not body.first < body.second:", "if False:"),
            Edit(evidence._entries_hold, "if first.id == second.id:", "if False:"),
        ),
        proofs.test_a_pair_has_one_form_and_is_two_messages,
    ),
    Bug(
        "nobody asks who signed the evidence",
        (Edit(evidence._votes_hold, "vote.signer != index or", "False and"),),
        proofs.test_one_changed_byte_anywhere_proves_nothing,
    ),
    Bug(
        "notarize and skip of one view count as a contradiction",
        (Edit(views.contradict, "return FINALIZE in (kind, other_kind)", "return kind != other_kind"),),
        agreement.test_notarize_and_skip_of_one_view_is_what_an_honest_member_may_say,
    ),
    Bug(
        "a member that contradicts itself is not put on record",
        (Edit(_Node._accuse, "self.evidence.append(found)", "pass"),),
        agreement.test_contradictory_votes_are_kept_as_a_pair,
    ),
)

DISK = (
    Bug(
        "a record is written and not synced",
        (Edit(journal.Journal._write, "self._disk.sync(segment.path)", "pass"),),
        journals.test_whatever_was_acknowledged_survives_a_power_cut_at_every_operation,
    ),
    Bug(
        "the name of a new segment is not made durable",
        (Edit(journal.Journal._begin, "self._disk.sync_folder(name)", "pass"),),
        journals.test_whatever_was_acknowledged_survives_a_power_cut_at_every_operation,
    ),
    Bug(
        "a file is cut at the first damage, whatever follows",
        (
            Edit(
                journal._judge_rest,
                "torn = last and len(batches) <= 1 and all(batch == segment.batch + 1 for batch in batches)",
                "torn = last",
            ),
        ),
        journals.test_damage_that_later_writes_follow_is_reported_and_never_cut,
    ),
    Bug(
        "a torn tail stays where it is",
        (
            Edit(
                journal.Journal.open,
                'if finding.verdict == "torn tail" and segment.begun:',
                "if False:",
            ),
        ),
        journals.test_a_last_write_with_a_hole_in_it_is_cut_behind_the_hole,
    ),
    Bug(
        "a vote is written once",
        (Edit(journal._encode_batch, "    if votes:\n", "    if False:\n"),),
        journals.test_a_vote_lies_in_two_places_at_least_4_kib_apart_and_is_one_record,
    ),
    Bug(
        "the two copies of a vote lie in one sector",
        (Edit(journal._encode_batch, "if gap > 0:", "if False:"),),
        journals.test_a_vote_lies_in_two_places_at_least_4_kib_apart_and_is_one_record,
    ),
    Bug(
        "a member votes although it may have forgotten a vote",
        (Edit(journal.Journal.open, 'f.log == WAL and f.verdict == "corruption"', "False"),),
        journals.test_damage_that_later_writes_follow_is_reported_and_never_cut,
    ),
    Bug(
        "after a write that failed, the next one is tried",
        (Edit(journal.Journal.append, 'self._failed = f"an earlier write failed ({error.message})"', "pass"),),
        journals.test_after_any_failure_of_the_disk_nothing_more_is_written_until_opened_anew,
    ),
    Bug(
        "a sync that failed is tried again",
        (
            Edit(
                RealDisk.sync,
                "    try:\n        os.fdatasync(self._open(path))\n",
                "    try:\n        try:\n            os.fdatasync(self._open(path))\n"
                "        except OSError:\n            os.fdatasync(self._open(path))\n",
            ),
        ),
        claims.test_a_sync_that_failed_is_not_tried_again,
    ),
    Bug(
        "a folder is not synced",
        (Edit(sync_folder, "os.fsync(descriptor)", "pass"),),
        storage.test_a_failed_sync_is_never_taken_for_a_full_disk,
    ),
    Bug(
        "old segments are removed all at once",
        (
            Edit(journal.Journal._drop, "self._removed.add(name)", "pass"),
            Edit(
                journal.Journal._drop,
                "        self._disk.sync_folder(name)\n        self._removed.discard(name)",
                "    self._disk.sync_folder(name)",
            ),
        ),
        journals.test_a_crash_while_old_segments_are_dropped_does_not_look_like_a_lost_one,
    ),
    Bug(
        "a full disk is found out after half of the write",
        (
            Edit(
                journal.Journal.append,
                "placed = [(self._room(batch.log, self._logs[batch.log], len(batch.data)), batch) for batch in batches]",
                "placed = ((self._room(batch.log, self._logs[batch.log], len(batch.data)), batch) for batch in batches)",
            ),
        ),
        claims.test_a_disk_that_is_full_for_the_last_log_leaves_the_first_unwritten,
    ),
    Bug(
        "the seal of a segment is not compared with what it seals",
        (
            Edit(
                journal._read_segment,
                "if count != segment.count or digest != hashlib.sha256(data[:offset]).digest():",
                "if False:",
            ),
        ),
        claims.test_a_seal_that_does_not_fit_is_reported,
    ),
    Bug(
        "a damaged block is served from where it lay",
        (Edit(journal._parse, "or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[offset:end])", ""),),
        claims.test_a_record_that_was_damaged_after_it_was_found_is_not_served,
    ),
    Bug(
        "where a block should lie is believed over what lies there",
        (
            Edit(
                journal.Journal._read,
                " and record.height == height",
                "",
            ),
        ),
        claims.test_what_lies_on_disk_is_believed_and_never_where_it_should_lie,
    ),
    Bug(
        "writes are not numbered",
        (Edit(journal.Journal._encode, "number = segments[-1].batch + 1 if segments else 1", "number = 1"),),
        journals.test_damage_that_later_writes_follow_is_reported_and_never_cut,
    ),
    Bug(
        "a torn tail is covered, and the votes in it",
        (Edit(journal.Journal._mend, "if record.kind != RECORD_VOTE or", "if True or"),),
        crashes.test_a_crash_in_a_short_life_and_one_while_it_is_mended_lose_nothing,
    ),
    Bug(
        "a segment that a crash left without its size is written to",
        (
            Edit(
                journal.Journal._room,
                "if left and self._disk.size(fresh.path) != fresh.size:",
                "if False:",
            ),
        ),
        crashes.test_a_crash_in_a_short_life_and_one_while_it_is_mended_lose_nothing,
    ),
    Bug(
        "a write that began well and ended badly is called corruption",
        (Edit(journal._judge_rest, "if not torn and last and batches == {segment.batch}:", "if False:"),),
        crashes.test_a_crash_in_a_short_life_and_one_while_it_is_mended_lose_nothing,
    ),
    Bug(
        "a segment that was reserved and never begun is called corruption",
        (Edit(journal._read_log, "if segments and (fresh :=", "if False and (fresh :="),),
        crashes.test_a_crash_in_a_short_life_and_one_while_it_is_mended_lose_nothing,
    ),
)

GOSSIP = (
    Bug(
        "a pair has exchanged when one side says so",
        (Edit(exchange.partners, " and own in receipts.get(other, ())", ""),),
        exchanges.test_a_pair_has_exchanged_if_both_say_so,
    ),
    Bug(
        "a receipt counts that comes when the round is closed",
        (Edit(state._note_receipt, "state.close is not None or ", ""),),
        exchanges.test_the_last_word_before_the_close_counts_and_none_after,
    ),
    Bug(
        "a receipt of another round counts for the open one",
        (Edit(state._note_receipt, " or body.round != state.round", ""),),
        exchanges.test_a_receipt_of_another_round_says_nothing,
    ),
    Bug(
        "the first attest ends a round of gossip",
        (
            Edit(state._due_exchange, "if len(attested) < min(state.terms.quorum, len(there)):", "if not attested:"),
            Edit(state._due_exchange, "len(state.attests) < min(state.terms.quorum, len(close.terms))", "False"),
        ),
        exchanges.test_a_round_commits_with_a_quorum_and_says_how_far_apart,
    ),
    Bug(
        "who was not in a round of gossip can end it",
        (
            Edit(
                state._due_exchange,
                "[node for node in there if node in state.attests]",
                "[*state.attests]",
            ),
        ),
        exchanges.test_fewer_than_a_quorum_in_a_round_are_enough_to_end_it,
    ),
    Bug(
        "a member may take back which model it ended a round with",
        (Edit(state._note_attest, "if own is None or own.round < body.round:", "if True:"),),
        exchanges.test_a_late_attest_tells_the_model_and_ends_no_round,
    ),
    Bug(
        "an attest that tells no distance counts in a round of gossip",
        (Edit(state._note_attest, "if exchange is None or len(body.sketch) != SKETCH_BYTES:", "if exchange is None:"),),
        exchanges.test_an_attest_without_a_sketch_does_not_count,
    ),
    Bug(
        "a contribution to a round of gossip may start from another member's model",
        (Edit(state.State.starts_well, "return own is None or base == own.model", "return True"),),
        exchanges.test_members_go_on_from_their_own_models,
    ),
    Bug(
        "a member takes part in a round before it has taken what it was given in the one before",
        (Edit(state.State.starts_well, "if author in self.exchange.dues:", "if False:"),),
        exchanges.test_who_missed_the_end_of_a_round_makes_up_for_it_before_it_takes_part_in_another,
    ),
    Bug(
        "what is due to a member stays due when it has attested it",
        (Edit(state._note_attest, "if due is not None and body.round == due.round:", "if False:"),),
        exchanges.test_who_missed_the_end_of_a_round_makes_up_for_it_before_it_takes_part_in_another,
    ),
    Bug(
        "a gift is made on the giver's word alone",
        (Edit(pushing.settle, "and index in exchange.receipts.get(target, ())", ""),),
        pushes.test_a_gift_takes_the_word_of_both,
    ),
    Bug(
        "a share that is lost is gone",
        (
            Edit(
                pushing.settle,
                "                held[giver] -= given\n                held[target] += given\n",
                "                held[target] += given\n            held[giver] -= mass.held // (len(targets) + 1)\n",
            ),
        ),
        pushes.test_a_share_that_is_lost_stays_with_its_giver,
    ),
    Bug(
        "a large site gives a small one more than it gets",
        (Edit(pushing.settle, "min(before[target].weight, mass.weight)", "mass.weight"),),
        pushes.test_a_large_site_gives_a_small_one_what_that_one_gives_it,
    ),
    Bug(
        "a round of gossip waits for the attest of a member that has left",
        (
            Edit(
                state._due_exchange,
                "for placed in close.terms if state.terms.index(placed.author) is not None]",
                "for placed in close.terms]",
            ),
        ),
        exchanges.test_a_round_of_gossip_ends_without_who_left_when_it_was_closed,
    ),
    Bug(
        "who leaves takes back what it exchanged in a round that is closed",
        (
            Edit(
                exchange.Exchange.without,
                "self.receipts.items() if closed or node not in left",
                "self.receipts.items() if node not in left",
            ),
        ),
        exchanges.test_an_epoch_that_begins_before_a_member_has_blended_does_not_change_its_row,
    ),
    Bug(
        "a round that was closed in one epoch is blended by the schedule of the next",
        (Edit(gossip_round.GossipRound._row, "terms_then = state.terms_of(close.epoch)", "terms_then = state.terms"),),
        exchanges.test_an_epoch_that_begins_before_a_member_has_blended_does_not_change_its_row,
    ),
    Bug(
        "a vote on the number of rounds makes a closed round one of gossip",
        (Edit(state.State.exchanging, "if self.close is not None:", "if False:"),),
        exchanges.test_a_vote_on_the_number_of_rounds_does_not_change_what_a_closed_round_is,
    ),
    Bug(
        "a public copy moves with every message, whether the round had it or not",
        (Edit(state._published, "for placed in closed.terms}", "for placed in state.contributions.values()}"),),
        copies.test_a_close_says_which_copies_there_are_from_then_on,
    ),
    Bug(
        "a message is fetched though the copy that it starts from is lost",
        (Edit(gossip_round.GossipRound._steps, "if self._will_hold(author, body.round, before, state)", "if True"),),
        copies.test_who_has_the_copy_fetches_the_message_and_who_lacks_it_the_next_copy,
    ),
    Bug(
        "what a member masked and lost is nothing that it asks others for",
        (
            Edit(
                masked_round.MaskedRound._offer,
                "attempt.offered is not None and not",
                "attempt.offered is None and not",
            ),
        ),
        mask_rounds.test_a_masked_update_that_is_lost_with_what_was_trained_is_asked_of_others,
    ),
    Bug(
        "a model that nobody has any more is waited for",
        (Edit(gossip_round.GossipRound._despair, "elif self._lost(state, digest, now):", "elif False:"),),
        gossips.test_for_a_model_that_nobody_has_any_more_the_one_before_stands_in_after_the_deadline,
    ),
    Bug(
        "copies are averaged in the last round, in place of models",
        (Edit(state.fits, "not body.slices)", "True)"),),
        copies.test_a_close_of_the_last_round_takes_whole_models_alone,
    ),
)

_Routed = routed_round.RoutedRound

ROUTES = (
    Bug(
        "a part is taken on one member's word",
        (Edit(_Routed._agreed, "if found and None not in found and len(named) == 1", "if len(named) == 1"),),
        routed.test_a_sum_is_taken_once_its_whole_group_names_the_same,
    ),
    Bug(
        "of two words on a part the first is believed",
        (Edit(_Routed._agreed, "if len(named) > 1:", "if False:"),),
        routed.test_different_words_stop_the_route,
    ),
    Bug(
        "the smaller of two words on a norm counts",
        (Edit(routed_round.ShardedRound._parts, "max(said[node].norms[index]", "min(said[node].norms[index]"),),
        routed.test_the_larger_word_on_a_norm_counts,
    ),
    Bug(
        "nobody adds up the norms of an update's slices",
        (Edit(routed_round.ShardedRound._parts, "if all(within_bound(units) for units in norms):", "if True:"),),
        routed.test_the_larger_word_on_a_norm_counts,
    ),
    Bug(
        "a slice that may not be averaged is averaged",
        (Edit(_Routed._ready, "return all(usable)", "return True"),),
        routed.test_a_slice_that_may_not_be_averaged_stops_the_route,
    ),
    Bug(
        "a route that leads nowhere is followed for ever",
        (Edit(_Routed._watch, "if now >= self._still_since + self._patience_s:", "if False:"),),
        routed.test_silence_for_as_long_as_the_charter_bears_stops_the_route,
    ),
    Bug(
        "what was made for the first close is taken for the second",
        (Edit(_Routed.parted, "if close is None or event.close != close.index:", "if close is None:"),),
        routed.test_what_was_made_for_the_first_close_is_not_taken_for_the_second,
    ),
    Bug(
        "a model of the first close is attested for the second",
        (Edit(_Routed._outdated, "begun != close.index", "False"),),
        routed.test_a_model_that_was_put_together_before_the_second_close_is_not_attested,
    ),
    Bug(
        "attests of the first close end the second",
        (Edit(state._append_derived, "close=closed, attests={}, partials={})", "close=closed, partials={})"),),
        routed.test_what_was_said_of_the_first_close_does_not_count_for_the_second,
    ),
    Bug(
        "a round may be closed as often as one likes",
        (Edit(state.State.on_route, "self.close.body.attempt == 1", "True"),),
        routed.test_a_round_on_its_route_may_be_closed_once_more_and_not_again,
    ),
    Bug(
        "a member may change its word on a part",
        (Edit(state._note_partial, "if (body.number, author) in state.partials:", "if False:"),),
        routed.test_the_first_word_on_a_part_counts,
    ),
    Bug(
        "a part counts whoever says that it has computed it",
        (Edit(partials.counts, "author in owners(body.number, len(charter.cuts), nodes)", "True"),),
        routed.test_the_first_word_on_a_part_counts,
    ),
    Bug(
        "an update may have other slices than it is named by",
        (Edit(state._check_contribution, " or body.update_digest != slices_digest(body.slices)", ""),),
        routed.test_an_update_that_is_not_named_by_its_slices_is_refused,
    ),
    Bug(
        "a sum may be as large as it likes",
        (Edit(average.sums_problem, "if norm > weight * bound * (1 + SUM_SLACK):", "if False:"),),
        routes.test_sums_out_of_bounds_are_refused,
    ),
)

LATE = (
    Bug(
        "work that has been averaged may come again under another name",
        (Edit(state.State._counts, "done < body.round and ", ""),),
        late.test_what_is_in_a_round_does_not_count_again_however_it_is_called,
    ),
    Bug(
        "what somebody contributed who has left since is not looked for",
        (Edit(state.State.destined, "if placed is None and self.close is not None:", "if False:"),),
        late.test_what_is_in_a_close_is_needed_though_its_author_has_left,
    ),
    Bug(
        "late work counts for ever",
        (Edit(state.State._counts, " and round_ - body.round <= self.signed.charter.staleness", ""),),
        late.test_late_work_stands_for_its_author_while_it_counts,
    ),
    Bug(
        "late work counts like any other",
        (Edit(state._weights, "discounted(placed.body.samples, by)", "placed.body.samples"),),
        late.test_late_work_stands_for_its_author_while_it_counts,
    ),
    Bug(
        "late work may start from any model",
        (Edit(state.State.starts_well, "behind <= len(self.models) and base == self.models[behind - 1]", "True"),),
        late.test_late_work_has_to_start_from_the_model_before_its_own_round,
    ),
    Bug(
        "what may not be averaged stands in the next round again",
        (Edit(state._left_over, "if reason == e.UNAVAILABLE", ""),),
        late.test_what_nobody_had_stands_in_the_next_round_until_it_is_too_late,
    ),
    Bug(
        "late work takes the place of fresh work",
        (Edit(state._newer, "(body.round, body.attempt) > (other.round, other.attempt)", "True"),),
        late.test_fresh_work_takes_the_place_of_late_work_and_not_the_other_way_round,
    ),
)

ASYNCHRONOUS = (
    Bug(
        "who waits for nobody does not wait for the commit either",
        (Edit(replica.Replica._passed_over, " and time_ms != state.opened_ms", ""),),
        replicas.test_nobody_is_passed_over_in_the_block_that_commits_the_round_before,
    ),
    Bug(
        "a leader is taken at its word about updates where nobody is waited for",
        (
            Edit(
                replica.Replica._judge_close,
                "if verdict is None and not self._given_up(",
                "if verdict is None and not self._passed_over(",
            ),
        ),
        replicas.test_an_update_is_not_lost_at_the_word_of_a_leader_though_nobody_is_waited_for,
    ),
    Bug(
        "a mean of a few moves the model as far as one of all",
        (Edit(state._weights, "sum(full.values()) - sum(weights)", "0"),),
        late.test_where_nobody_waits_work_moves_the_model_by_its_share_of_all,
    ),
    Bug(
        "who has not been heard of for long counts in every mean",
        (Edit(state._weights, " if state.round - one.round <= charter.staleness", ""),),
        late.test_where_nobody_waits_work_moves_the_model_by_its_share_of_all,
    ),
    Bug(
        "those that are at work are waited for after all",
        (Edit(replica.Replica._passed_over, "if self._charter.asynchronous and", "if False and"),),
        replicas.test_where_nobody_is_waited_for_a_round_closes_with_enough_and_the_others_are_not_asked_about,
    ),
)

RULES = (
    Bug(
        "attests that tell other weights count together",
        (Edit(state._said, " + hashlib.sha256(codec.encode(body.used)).digest()", ""),),
        terms_.test_a_commit_takes_a_quorum_that_agrees_on_model_and_weights,
    ),
    Bug(
        "an attest may name other updates than were averaged",
        (Edit(state._said, "if named != ", "if False and named != "),),
        terms_.test_an_attest_that_does_not_name_what_was_averaged_does_not_count,
    ),
    Bug(
        "a rule believes sample counts",
        (Edit(state._weights, "if charter.rule_of(exchanging=state.exchanging) is not None:", "if False:"),),
        terms_.test_every_update_counts_as_one_whatever_samples_it_claims,
    ),
    Bug(
        "a member takes the weights' digest for a part of its model's",
        (Edit(state.attested, "said[:32]", "said"),),
        terms_.test_after_a_crash_a_member_finds_the_model_that_it_has_attested,
    ),
    Bug(
        "Krum counts an update as a neighbour of itself",
        (Edit(robust.selected, " if j != i]", "]"),),
        rules.test_krum_squares_distances_once,
    ),
)

MASKS = (
    Bug(
        "a second masked update takes the place of the first",
        (Edit(state._note_contribution, " and (state.round, author) not in state.contributions", ""),),
        masking.test_a_second_masked_update_takes_nobodys_place,
    ),
    Bug(
        "a masked update need not be made of what its author announced",
        (Edit(log_masks.offers, "return (body.samples, body.base_digest) == ", "return True or "),),
        masking.test_what_is_not_the_masked_form_of_what_was_announced_stands_in_no_round,
    ),
    Bug(
        "a sum of two is closed upon",
        (Edit(state._check_masked_close, "if len(indices) < least:", "if len(indices) < 2:"),),
        masking.test_a_close_is_of_as_many_as_a_sum_takes_once_all_have_dealt,
    ),
    Bug(
        "a round is closed before all have dealt",
        (Edit(state._check_masked_close, "len(masking.deals) < len(roster.terms)", "False"),),
        masking.test_a_close_is_of_as_many_as_a_sum_takes_once_all_have_dealt,
    ),
    Bug(
        "of what a member reveals the last word counts",
        (Edit(log_masks.with_reveal, " or author in masking.reveals", ""),),
        masking.test_of_what_is_revealed_the_first_for_this_close_counts,
    ),
    Bug(
        "keys of an attempt that has ended count in the next",
        (Edit(log_masks.with_keys, "body.attempt != masking.attempt or ", ""),),
        masking.test_who_does_not_deal_is_barred_and_all_others_begin_anew,
    ),
    Bug(
        "everybody may be barred, and the round never ends",
        (Edit(log_masks.ended, "barred = ()", "pass"),),
        masking.test_so_many_are_barred_that_the_round_can_go_on_or_nobody,
    ),
    Bug(
        "an attempt is ended although enough have offered",
        (Edit(log_masks.check_ending, "if not dealing and", "if False and"),),
        masking.test_who_does_not_offer_is_barred_if_too_few_have,
    ),
    Bug(
        "a roster outlives its members",
        (Edit(log_masks.without, "if closed or not changed:", "if True:"),),
        masking.test_a_change_of_members_ends_an_attempt_and_leaves_a_close_as_it_is,
    ),
    Bug(
        "keys are said before the root is durable that they are made of",
        (Edit(masked_round.MaskedRound._post_keys, "yield from self._remember()\n", "pass\n"),),
        mask_rounds.test_nothing_is_said_before_the_record_holds_what_it_follows_from,
    ),
    Bug(
        "a masked update is let into the store before the record says that it was offered",
        (Edit(masked_round.MaskedRound.masked, "[*self._remember(), Adopt(", "[Adopt("),),
        mask_rounds.test_nothing_is_said_before_the_record_holds_what_it_follows_from,
    ),
    Bug(
        "shares are revealed before the record holds for which close",
        (
            Edit(
                masked_round.MaskedRound._reveal,
                "yield from self._remember()\n        yield Say",
                "yield Say",
            ),
        ),
        mask_rounds.test_nothing_is_said_before_the_record_holds_what_it_follows_from,
    ),
    Bug(
        "what was trained is offered under no mask",
        (Edit(masked_round.MaskedRound._offer, "update_digest=offered,", ""),),
        mask_rounds.test_what_was_trained_is_said_to_nobody,
    ),
    Bug(
        "a vote for a sum is cast without holding all of it",
        (Edit(masked_waits.MaskedWaits._judge_close, "if not here:", "if False:"),),
        waits.test_nobody_votes_for_a_sum_without_holding_all_of_it_and_all_deals,
    ),
    Bug(
        "an attempt is ended at once by who would rather have another roster",
        (Edit(masked_waits.MaskedWaits._out_of_patience, "return now >= since", "return True or now >= since"),),
        waits.test_an_attempt_ends_when_no_deal_has_come_for_the_charters_patience,
    ),
    Bug(
        "a round is void at one member's word",
        (Edit(masked_waits.MaskedWaits._judge_void, "if self._witness.stuck():", "if True:"),),
        waits.test_a_round_is_void_for_who_cannot_have_the_sum_and_for_nobody_else,
    ),
    Bug(
        "late work is on a roster as often as it is posted",
        (Edit(log_masks.make_roster, " or round_ - late <= done.get(keyed.author, 0)", ""),),
        masking.test_late_work_is_on_a_roster_for_what_it_is_still_worth_and_once,
    ),
    Bug(
        "secrets outlive their round",
        (Edit(masked_round.MaskedRound._follow, "< (state.round, masking.attempt)", "< (0, 0)"),),
        mask_rounds.test_with_the_round_its_secrets_are_gone,
    ),
)

NOISE = (
    Bug(
        "a site's own noise protects others from it",
        (Edit(noise.silent, "max(1, faults(swarm))", "faults(swarm)"),),
        shares.test_a_member_knows_its_own_noise_so_one_is_silent_at_least,
    ),
    Bug(
        "noise is measured by a norm that rounding may exceed",
        (Edit(noise.share, " + isqrt(elements) // 2 + 1", ""),),
        shares.test_rounding_never_makes_an_update_longer_than_is_counted_with,
    ),
    Bug(
        "an update is masked that is longer than the noise is made for",
        (Edit(noise.check_norm, "if total > norm_max * norm_max:", "if False:"),),
        shares.test_squares_are_added_exactly,
    ),
    Bug(
        "a vote takes back noise that was shared for a larger sum",
        (Edit(state.State.included_min, "if charter.site_noise is None:", "if True:"),),
        noised.test_no_vote_takes_back_what_noise_was_shared_for_nor_pays_for_more_rounds,
    ),
    Bug(
        "a run goes on when its budget is spent",
        (Edit(state.State.last, "rounds = min(rounds, noise.sums)", "pass"),),
        noised.test_the_run_ends_before_a_round_would_cross_the_budget_and_nobody_trains_for_it,
    ),
    Bug(
        "updates are masked without their share of noise",
        (Edit(masked_round.MaskedRound._offer, "noise = None if share is None else", "noise = None and"),),
        noised.test_a_site_that_adds_none_is_missing_from_the_variance_and_the_rest_is_enough,
    ),
)

STANDSTILL = (
    Bug(
        "a site may be given up in the block that commits the round before",
        (Edit(replica.Replica._given_up, "if time_ms == state.opened_ms:", "if False:"),),
        replicas.test_nobody_is_given_up_in_the_block_that_commits_the_round_before,
    ),
    Bug(
        "of an update that came before what it follows on only the entry is remembered",
        (Edit(node.Node._on_entry, "for one in self.replica.own(author):", "for one in [pending]:"),),
        core.test_an_update_heard_of_out_of_order_is_asked_for_once_what_it_follows_on_is_here,
    ),
    Bug(
        "nobody asks for the update that a final block makes the next of its feed",
        (Edit(node.Node._absorb, "in self.replica.bodies(e.Contribution):", "in ():"),),
        core.test_an_update_heard_of_out_of_order_is_asked_for_once_what_it_follows_on_is_here,
    ),
)

SALT = (
    Bug(
        "an update goes out without its salt",
        (Edit(BulkWorker._update, "elif self._salt:", "elif False:"),),
        salted.test_two_equal_updates_have_two_names_and_neither_is_that_of_the_update_alone,
    ),
    Bug(
        "every update has the same salt",
        (
            Edit(BulkWorker._update, "self._draw(self._salt)", "bytes(self._salt)"),
            Edit(Messages.write_update, "self._draw(self._salt)", "bytes(self._salt)"),
        ),
        salted.test_two_equal_updates_have_two_names_and_neither_is_that_of_the_update_alone,
    ),
    Bug(
        "what training measured is a second name of a salted update",
        (Edit(Charter.tells_training, " and not self.salt", ""),),
        salts.test_what_training_measured_is_told_where_updates_are_not_salted,
    ),
)

BANK = (
    VOTING
    + CERTIFICATES
    + BYTES
    + LOG
    + EPOCHS
    + EVIDENCE
    + GOSSIP
    + ROUTES
    + LATE
    + ASYNCHRONOUS
    + RULES
    + MASKS
    + NOISE
    + SALT
    + STANDSTILL
    + DISK
)
